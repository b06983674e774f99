"""Gathers facts and plain text from the documentation that is on this machine.

Three sources, nothing from the network:

* manual pages (sections 1 and 8): the NAME line of a command;
* the Rust standard library's HTML documentation, which rustup installs with the
  toolchain (component `rust-docs`): the first sentence of an item;
* the Python standard library: the first sentence of a docstring.

Writes into the output directory (not meant to be committed, see
docs/MODEL_TRAINING.md):

* `facts.jsonl`    one fact a line: source, kind, name, aliases, answer;
* `unlisted.txt`   real names that are *not* among the facts (for "I have no entry");
* `text.train.txt`, `text.valid.txt`   paragraphs, split by document.

This file knows nothing about models, tokens or templates: next is train.py.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import importlib
import inspect
import io
import json
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

MAX_WORDS = 22
MAX_CHARS = 130
MIN_CHARS = 8

# What people ask for first. Everything else follows in alphabetical order until the
# source's share is full.
COMMON_COMMANDS = """
ls cp mv rm cat tar grep sed awk find sort uniq head tail cut paste tr wc diff patch echo printf
mkdir rmdir touch chmod chown chgrp ln df du ps top kill pkill pgrep free uptime who whoami w id
uname hostname date cal bc man whatis apropos which whereis locate less more nano vi vim ed ssh scp
sftp ssh-keygen ssh-agent ssh-add ssh-copy-id curl wget rsync gzip gunzip zcat bzip2 xz zip unzip
zstd lz4 git make gcc g++ cc ld as ar nm objdump objcopy strip strings readelf gdb strace ltrace perf
valgrind bash sh dash tmux screen mount umount fdisk sfdisk lsblk blkid mkfs fsck dd sync losetup
swapon swapoff mkswap systemctl journalctl loginctl timedatectl hostnamectl useradd userdel usermod
groupadd groupdel passwd su sudo login chsh chfn chage env printenv export test true false yes seq
sleep timeout nice renice nohup xargs tee split csplit join comm fold fmt expand unexpand nl od xxd
hexdump base64 md5sum sha1sum sha256sum sha512sum cksum sum file stat readlink realpath basename
dirname mktemp truncate shred tac rev shuf factor expr tty stty dpkg apt apt-get apt-cache dpkg-deb
dpkg-query ip ss netstat ifconfig route arp ping traceroute tc bridge python3 perl node psql pg_dump
pg_restore createdb dropdb sqlite3 openssl gpg gpgv cmp sdiff diff3 egrep fgrep zgrep watch
vmstat pmap lsof fuser pstree pidof pwd install mkfifo mknod chroot chrt taskset ionice flock
lscpu lsmem lsns unshare nsenter setsid script logger wall write mesg column col ul look rename
reboot shutdown halt poweroff runlevel init sysctl dmesg modprobe lsmod insmod rmmod nproc arch
groups users last lastb finger tput clear reset tset tabs locale iconv gettext cpio pv dos2unix
docker podman cargo rustc npm pip pkg-config autoconf automake libtool m4 flex bison ctags yacc
""".split()

# Rust pages by path under html/, in order of how often people ask.
RUST_TYPES = """
std/vec/struct.Vec std/string/struct.String std/primitive.str std/option/enum.Option
std/result/enum.Result std/primitive.slice std/collections/struct.HashMap std/iter/trait.Iterator
std/collections/struct.HashSet std/collections/struct.BTreeMap std/collections/struct.VecDeque
std/boxed/struct.Box std/rc/struct.Rc std/sync/struct.Arc std/cell/struct.RefCell
std/cell/struct.Cell std/sync/struct.Mutex std/sync/struct.RwLock std/primitive.char
std/path/struct.Path std/path/struct.PathBuf std/fs/struct.File std/process/struct.Command
std/time/struct.Duration std/time/struct.Instant std/collections/struct.BTreeSet
std/collections/struct.BinaryHeap std/primitive.i32 std/primitive.f64 std/primitive.u8
std/fs/struct.OpenOptions std/io/trait.Read std/io/trait.Write std/io/trait.BufRead
std/io/trait.Seek std/thread/struct.Thread std/thread/struct.JoinHandle
std/thread/struct.Builder std/sync/struct.Condvar std/sync/struct.Barrier std/sync/struct.Once
std/sync/struct.OnceLock std/cell/struct.OnceCell std/sync/mpsc/struct.Sender
std/sync/mpsc/struct.Receiver std/net/struct.TcpStream std/net/struct.TcpListener
std/net/struct.UdpSocket std/net/struct.Ipv4Addr std/net/enum.IpAddr std/net/enum.SocketAddr
std/fs/struct.Metadata std/fs/struct.DirEntry std/process/struct.Child std/process/struct.ExitStatus
std/ffi/struct.OsString std/ffi/struct.OsStr std/ffi/struct.CString std/ffi/struct.CStr
std/borrow/enum.Cow std/pin/struct.Pin std/mem/union.MaybeUninit std/ptr/struct.NonNull
std/primitive.pointer std/time/struct.SystemTime std/collections/hash_map/enum.Entry
std/collections/hash_map/struct.OccupiedEntry std/ops/trait.Drop
std/ops/trait.Deref std/ops/trait.Index std/ops/trait.Fn std/clone/trait.Clone
std/cmp/trait.Ord std/cmp/trait.PartialEq std/cmp/enum.Ordering std/hash/trait.Hash
std/hash/trait.Hasher std/default/trait.Default std/convert/trait.From std/convert/trait.Into
std/convert/trait.TryFrom std/convert/trait.AsRef std/fmt/trait.Display std/fmt/trait.Debug
std/fmt/struct.Formatter std/str/trait.FromStr std/string/trait.ToString
std/iter/trait.IntoIterator std/iter/trait.FromIterator std/iter/trait.DoubleEndedIterator
std/iter/trait.ExactSizeIterator std/iter/struct.Peekable std/error/trait.Error
std/rc/struct.Weak std/sync/atomic/struct.AtomicUsize std/sync/atomic/struct.AtomicBool
std/io/struct.BufReader std/io/struct.BufWriter std/io/struct.Cursor std/io/struct.Stdin
std/io/struct.Error std/sync/struct.LazyLock std/collections/struct.LinkedList
std/num/struct.NonZero std/sync/struct.Weak std/any/trait.Any std/future/trait.Future
std/task/struct.Context std/task/enum.Poll std/alloc/struct.Layout std/io/enum.ErrorKind
std/primitive.bool std/primitive.array std/primitive.u32 std/primitive.usize
""".split()
RUST_FUNCTION_MODULES = "mem ptr fs io env thread process cmp iter array str slice char convert time hint fmt any panic ops sync string".split()

PYTHON_BUILTIN_TYPES = "str list dict set int float bytes tuple bytearray frozenset complex range".split()
PYTHON_MODULES = """
os os.path re json math random itertools functools collections datetime pathlib subprocess
threading asyncio logging argparse csv io sys time string shutil glob tempfile pickle hashlib
base64 struct socket urllib.parse urllib.request copy heapq bisect operator statistics
decimal fractions typing dataclasses enum contextlib abc inspect traceback warnings unittest
textwrap pprint queue multiprocessing concurrent.futures signal gzip zipfile tarfile zlib bz2 lzma
sqlite3 configparser getpass platform uuid secrets hmac calendar locale difflib fnmatch fileinput
html html.parser xml.etree.ElementTree email.message smtplib http.client http.server
socketserver ssl select selectors timeit cProfile pdb doctest ast dis importlib types weakref gc
codecs unicodedata array shelve dbm mimetypes webbrowser ipaddress stat errno keyword
tokenize token sched cmd shlex zipimport runpy site sysconfig trace tracemalloc bdb linecache
numbers cmath posixpath netrc plistlib ftplib imaplib poplib colorsys wave imghdr
copyreg reprlib graphlib contextvars curses readline pkgutil compileall filecmp atexit
urllib.error urllib.robotparser xml.sax.saxutils email.utils json.decoder logging.handlers
""".split()

COMMON_RUST = """
Vec::push Vec::pop Vec::len Vec::new Vec::with_capacity Vec::insert Vec::remove Vec::clear Vec::extend Vec::truncate
Vec::retain Vec::drain Vec::dedup Vec::append Vec::is_empty Vec::capacity Vec::reserve Vec::resize Vec::swap_remove Vec::split_off
slice::sort slice::sort_unstable slice::sort_by slice::sort_by_key slice::iter slice::iter_mut slice::first slice::last
slice::get slice::get_mut slice::contains slice::binary_search slice::chunks slice::windows slice::split_at slice::reverse
slice::concat slice::join slice::swap slice::to_vec slice::starts_with slice::fill slice::rotate_left slice::len
HashMap::insert HashMap::get HashMap::remove HashMap::entry HashMap::contains_key HashMap::keys HashMap::values HashMap::iter
HashMap::len HashMap::get_mut HashMap::retain HashMap::new HashSet::insert HashSet::contains HashSet::union HashSet::remove
Option::unwrap Option::unwrap_or Option::unwrap_or_else Option::unwrap_or_default Option::expect Option::map Option::and_then
Option::is_some Option::is_none Option::ok_or Option::take Option::filter Option::or Option::zip Option::as_ref Option::replace
Result::unwrap Result::unwrap_or Result::expect Result::map Result::map_err Result::ok Result::err Result::is_ok Result::is_err Result::and_then
String::new String::from String::push String::push_str String::len String::pop String::clear String::insert String::as_str
str::len str::trim str::split str::chars str::bytes str::contains str::replace str::parse str::lines str::to_uppercase
str::to_lowercase str::find str::starts_with str::ends_with str::split_whitespace str::repeat str::strip_prefix str::is_empty
Iterator::map Iterator::filter Iterator::fold Iterator::collect Iterator::next Iterator::zip Iterator::enumerate Iterator::take
Iterator::skip Iterator::chain Iterator::rev Iterator::sum Iterator::count Iterator::any Iterator::all Iterator::find
Iterator::flat_map Iterator::filter_map Iterator::peekable Iterator::max Iterator::min Iterator::position Iterator::last Iterator::step_by
Box::new Box::leak Rc::new Rc::clone Rc::strong_count Arc::new Arc::strong_count RefCell::borrow RefCell::borrow_mut Cell::get Cell::set
Mutex::new Mutex::lock RwLock::read RwLock::write VecDeque::push_back VecDeque::push_front VecDeque::pop_front BTreeMap::insert
Path::new Path::join Path::exists Path::file_name Path::extension Path::parent PathBuf::push File::open File::create
Command::new Command::arg Command::spawn Command::output Duration::from_secs Instant::now Instant::elapsed
std::mem::swap std::mem::take std::mem::replace std::mem::drop std::mem::size_of std::fs::read_to_string std::fs::write
std::fs::remove_file std::fs::create_dir_all std::env::args std::env::var std::thread::spawn std::thread::sleep std::process::exit
std::io::stdin std::io::stdout println! print! eprintln! format! vec! panic! assert! assert_eq! todo! unreachable! matches! dbg! write! include_str!
Vec String Option Result HashMap HashSet BTreeMap VecDeque Box Rc Arc RefCell Cell Mutex RwLock Iterator Clone Drop Deref Path File Cow Pin
i32::abs i32::pow i32::checked_add i32::wrapping_add f64::sqrt f64::powi f64::floor f64::ceil f64::round f64::abs char::is_alphabetic char::is_numeric char::to_digit
""".split()
COMMON_PYTHON = """
print len range open sorted enumerate zip map filter sum min max abs round input isinstance type any all
repr hash id iter next reversed super vars dir getattr setattr hasattr callable chr ord hex bin oct pow divmod
eval exec compile format globals locals property staticmethod classmethod slice object
str.join str.split str.strip str.replace str.format str.lower str.upper str.startswith str.endswith str.find
str.encode str.title str.count str.index str.zfill str.splitlines str.partition str.isdigit str.isalpha
list.append list.extend list.insert list.remove list.pop list.sort list.reverse list.index list.count list.clear list.copy
dict.get dict.items dict.keys dict.values dict.pop dict.update dict.setdefault dict.popitem dict.clear dict.copy
set.add set.remove set.discard set.union set.pop set.update set.intersection set.difference bytes.decode bytes.hex int.from_bytes int.to_bytes
os.path.join os.path.exists os.path.isfile os.path.isdir os.path.basename os.path.dirname os.path.splitext
os.path.abspath os.path.getsize os.path.expanduser os.path.split os.path.realpath os.path.relpath
os.listdir os.mkdir os.makedirs os.remove os.rename os.rmdir os.getcwd os.chdir os.walk os.environ os.getenv
os.system os.stat os.kill os.fork os.getpid os.scandir os.cpu_count os.urandom os.replace os.unlink os.chmod
re re.compile re.match re.search re.findall re.finditer re.sub re.split re.fullmatch re.escape re.subn
json json.dumps json.loads json.dump json.load math math.sqrt math.floor math.ceil math.sin math.cos math.log
math.gcd math.factorial math.pow math.exp math.hypot math.isnan math.comb math.prod math.fsum math.degrees math.radians
random random.random random.randint random.choice random.shuffle random.sample random.seed random.uniform random.gauss
itertools itertools.chain itertools.product itertools.permutations itertools.combinations itertools.groupby itertools.islice
itertools.count itertools.cycle itertools.repeat itertools.zip_longest itertools.accumulate itertools.takewhile itertools.tee
functools functools.reduce functools.partial functools.lru_cache functools.wraps functools.cache functools.cached_property
functools.singledispatch functools.total_ordering collections.Counter collections.defaultdict collections.OrderedDict
collections.deque collections.namedtuple collections.ChainMap collections.Counter.most_common collections.deque.append
collections.deque.appendleft collections.deque.popleft collections.deque.rotate datetime.datetime datetime.date datetime.timedelta
datetime.datetime.now datetime.datetime.strftime datetime.datetime.strptime datetime.datetime.fromisoformat
pathlib pathlib.Path pathlib.Path.exists pathlib.Path.read_text pathlib.Path.write_text pathlib.Path.mkdir pathlib.Path.glob
pathlib.Path.iterdir pathlib.Path.unlink pathlib.Path.resolve pathlib.Path.is_dir pathlib.Path.open pathlib.Path.rename
subprocess subprocess.run subprocess.Popen subprocess.check_output subprocess.call threading.Thread threading.Lock
threading.Thread.start threading.Thread.join threading.Event threading.Semaphore asyncio asyncio.run asyncio.gather asyncio.sleep
asyncio.create_task asyncio.wait_for asyncio.Queue logging logging.getLogger logging.info logging.basicConfig argparse
argparse.ArgumentParser csv csv.reader csv.writer csv.DictReader csv.DictWriter sys sys.exit sys.getsizeof sys.setrecursionlimit
time time.sleep time.time time.perf_counter time.strftime time.monotonic shutil shutil.copy shutil.copytree shutil.move
shutil.rmtree shutil.which shutil.disk_usage glob glob.glob tempfile tempfile.mkdtemp tempfile.NamedTemporaryFile
tempfile.TemporaryDirectory pickle pickle.dump pickle.load pickle.dumps pickle.loads hashlib hashlib.sha256 hashlib.md5
base64 base64.b64encode base64.b64decode socket socket.socket struct.pack struct.unpack urllib.request.urlopen
urllib.parse.urlparse urllib.parse.quote urllib.parse.urlencode urllib.parse.urljoin copy copy.copy copy.deepcopy
heapq heapq.heappush heapq.heappop heapq.heapify heapq.nlargest heapq.nsmallest heapq.merge bisect bisect.bisect_left bisect.insort
operator operator.itemgetter statistics.mean statistics.median statistics.stdev statistics.mode decimal.Decimal fractions.Fraction
dataclasses.dataclass dataclasses.field dataclasses.asdict enum.Enum contextlib.contextmanager contextlib.suppress
contextlib.closing contextlib.ExitStack abc.ABC abc.abstractmethod inspect.signature inspect.getsource textwrap.dedent
textwrap.wrap textwrap.fill pprint.pprint queue.Queue queue.PriorityQueue uuid.uuid4 secrets.token_hex zlib.compress zlib.decompress
gzip.open sqlite3.connect weakref.ref io.StringIO io.BytesIO shlex.split shlex.quote traceback.print_exc timeit.timeit
ValueError TypeError KeyError IndexError AttributeError ImportError NameError ZeroDivisionError RuntimeError StopIteration
OSError FileNotFoundError PermissionError KeyboardInterrupt AssertionError RecursionError MemoryError OverflowError EOFError
UnicodeDecodeError NotImplementedError SyntaxError IndentationError TimeoutError Exception
""".split()


def clean(text: str) -> str:
    """One line of plain text: white space folded, typographic marks made ASCII."""
    for a, b in {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-",
                 "\u00a0": " ", "\u2192": "->", "\u2026": "...", "\u2010": "-", "\u2212": "-"}.items():
        text = text.replace(a, b)
    return re.sub(r"\s+", " ", text).strip()


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence (not "e.g.", not "1.0")."""
    text = clean(text)
    for match in re.finditer(r"\.(?=\s+[A-Z`'\"(]|$)", text):
        head = text[: match.end()]
        if not re.search(r"(?:\be\.g|\bi\.e|\betc|\bvs|\bcf|\b[A-Z])\.$", head):
            return head
    return text


def as_answer(text: str) -> str | None:
    """A short answer: capital first, full stop last; None where the text will not do."""
    text = clean(text)
    text = re.sub(r"\s+([,;:]|\.(?![.\w]))", r"\1", text)
    if not text.isascii() or not MIN_CHARS <= len(text) <= MAX_CHARS:
        return None
    if not 2 <= len(text.split()) <= MAX_WORDS:
        return None
    if re.search(r"https?://|<\/?(?:a|p|br|code|div|span|em|li)\b[^>]*>|\\|\bsee\b.*:$|::$|[:,;]$|deprecated|obsolete|TODO|placeholder", text, re.I):
        return None
    if text.count("(") != text.count(")") or text.count("`") % 2 or text.count("[") != text.count("]"):
        return None
    if text.count('"') % 2:
        return None
    if text[0].islower() and not re.match(r"[a-z]+[\(_.:=]", text):
        text = text[0].upper() + text[1:]
    if text[-1] not in ".!?":
        text += "."
    return text


# ---------------------------------------------------------------- manual pages

ROFF_NAMES = {"aq": "'", "cq": "'", "oq": "`", "dq": '"', "lq": '"', "rq": '"', "em": "-", "en": "-", "hy": "-",
              "co": "(c)", "ga": "`", "ha": "^", "ti": "~", "rs": "\\", "bu": "*", "mi": "-", "bv": "|", "ba": "|"}


def unroff(line: str) -> str:
    """Text of one roff line: escapes resolved, fonts dropped."""
    line = re.sub(r'\\".*$', "", line)
    line = re.sub(r"\\\*\((?:lq|rq|Lq|Rq)|\\\*[lr]q", '"', line)
    line = re.sub(r"\\\[([^\]]+)\]", lambda m: ROFF_NAMES.get(m.group(1), ""), line)
    line = re.sub(r"\\\((..)", lambda m: ROFF_NAMES.get(m.group(1), ""), line)
    line = re.sub(r"\\f(?:\[[^\]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\s[-+]?\d+|\\[&|^/,%:cd]|\\\*\(..|\\\*\[[^\]]*\]|\\\*.|\\[mM]\[[^\]]*\]", "", line)
    line = line.replace("\\-", "-").replace("\\'", "'").replace("\\`", "`").replace("\\e", "\\")
    line = line.replace("\\ ", " ").replace("\\~", " ").replace("\\0", " ")
    return line


def read_page(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return data.decode("utf-8", "replace")


def name_line(page: str) -> tuple[list[str], str] | None:
    """(names, description) of the NAME section, for man and mdoc pages."""
    match = re.search(r"^\.S[hH]\s+\"?N[Aa][Mm][Ee]\"?\s*\n(.*?)(?=^\.S[hH]|\Z)", page, re.M | re.S)
    if not match:
        return None
    words, names, mdoc = [], [], False
    for line in match.group(1).splitlines():
        if line.startswith(('.\\"', "'\\\"")):
            continue
        if line.startswith(".Nm"):
            mdoc = True
            names += [n for n in line[3:].replace(",", " ").split() if n]
        elif line.startswith(".Nd"):
            words.append(unroff(line[3:]))
        elif re.match(r"\.(B|I|BR|IR|RB|RI|BI)\b", line):
            words.append(unroff(re.sub(r"^\.\w+\s*", "", line)).replace('"', ""))
        elif line.startswith((".", "'")):
            if line.startswith((".PP", ".SS", ".SH", ".sp")) and words:
                break
        else:
            words.append(unroff(line))
    text = clean(" ".join(words))
    if mdoc:
        return ([unroff(n) for n in names], re.sub(r"^.*? - ", "", text)) if text else None
    text = re.sub(r"\\+(?=\.)", "", text)
    split = re.split(r"\s+-{1,3}\s+", text, maxsplit=1)
    if len(split) != 2:
        return None
    return [n.strip() for n in split[0].split(",") if n.strip()], split[1]


def man_paragraphs(page: str) -> list[str]:
    """Running text of a page: paragraphs of plain lines, tables and examples left out."""
    paragraphs, current, skipping = [], [], False
    for line in page.splitlines():
        if re.match(r"\.(nf|TS|EX|Bd)\b", line):
            skipping = True
        elif re.match(r"\.(fi|TE|EE|Ed)\b", line):
            skipping = False
        elif skipping or line.startswith(('.\\"', "'")):
            continue
        elif re.match(r"\.(PP|P|LP|TP|IP|SH|SS|Sh|Ss|Pp|sp|It|HP|RS|RE|br)\b", line) or not line.strip():
            if current:
                paragraphs.append(clean(" ".join(current)))
            current = []
        elif re.match(r"\.(B|I|BR|IR|RB|RI|BI|SM)\b", line):
            joined = unroff(re.sub(r"^\.\w+\s*", "", line))
            current.append(re.sub(r'"([^"]*)"', r"\1", joined))
        elif line.startswith("."):
            continue
        else:
            current.append(unroff(line))
    if current:
        paragraphs.append(clean(" ".join(current)))
    return paragraphs


# Families of hundreds of generated pages that nobody asks about by that name.
MAN_SKIPPED = re.compile(r"^(gcloud|gsutil|bq\b|x86_64-|llvm-.*-\d|.*-\d+(\.\d+)?$|perl5|python3\.|"
                         r"systemd-.*(\.service|\.socket|\.path|\.timer|-generator)|.*@)")


def man_facts(root: Path) -> tuple[list[dict], list[tuple[str, list[str]]], list[str]]:
    facts, documents, unlisted = {}, [], []
    for section in ("1", "8"):
        for path in sorted((root / f"man{section}").glob("*")):
            name = re.sub(rf"\.{section}\w*(\.gz)?$", "", path.name)
            if name.startswith("gcloud"):
                if name.count("_") == 2:
                    unlisted.append(name.replace("_", " ").replace("gcloud ", "gcloud-").replace(" ", "-"))
                continue
            if not re.search(rf"\.{section}(\.gz)?$", path.name):
                continue
            try:
                page = read_page(path)
            except (OSError, EOFError):
                continue
            if page.startswith(".so ") or len(page) < 200:
                continue
            documents.append((f"man:{name}", man_paragraphs(page)))
            if MAN_SKIPPED.match(name):
                continue
            found = name_line(page)
            if not found:
                continue
            # An alternative (`awk` -> `mawk`) counts only where people ask for it by that name.
            if name not in found[0] and path.is_symlink() and name not in COMMON_COMMANDS:
                continue
            text = re.sub(r"^[\w.+-]+(?:, [\w.+-]+)*\s+-+\s+", "", found[1])
            answer = as_answer(first_sentence(text))
            if answer and name not in facts and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
                facts[name] = {"source": "man", "kind": "command", "name": name, "aliases": [], "answer": answer}
            else:
                unlisted.append(name)
    rank = {n: i for i, n in enumerate(COMMON_COMMANDS)}
    systemd = lambda n: n.startswith(("systemd-", "tc-", "pam_", "perf-", "git-", "dpkg-", "pg_", "deb", "msg", "fc-"))
    ordered = sorted(facts.values(), key=lambda f: (rank.get(f["name"], 10_000), systemd(f["name"]), len(f["name"]) > 12, f["name"]))
    return ordered, documents, unlisted


# ------------------------------------------------------------------------ Rust

def html_text(fragment: str) -> str:
    fragment = re.sub(r"<sup.*?</sup>", "", fragment, flags=re.S)
    fragment = re.sub(r"<code>(.*?)</code>", r"`\1`", fragment, flags=re.S)
    fragment = re.sub(r"<[^>]+>", "", fragment)
    return clean(html.unescape(fragment).replace("§", ""))


def rust_paragraphs(page: str) -> list[str]:
    return [html_text(p) for block in re.findall(r'<div class="docblock">(.*?)</div>', page, re.S)
            for p in re.findall(r"<p>(.*?)</p>", block, re.S)]


def rust_answer(fragment: str) -> str | None:
    match = re.match(r"\s*<p>(.*?)</p>", fragment, re.S)
    if not match or "stab deprecated" in fragment:
        return None
    return as_answer(first_sentence(html_text(match.group(1))))


def rust_page_facts(root: Path, page_path: str) -> tuple[list[dict], list[str], str]:
    page = (root / f"{page_path}.html").read_text("utf-8", "replace")
    parts = page_path.split("/")
    kind, item = parts[-1].split(".", 1)
    facts, unlisted = [], []
    full = "::".join(parts[:-1] + [item])
    kinds = {"struct": "type", "enum": "type", "union": "type", "trait": "trait", "primitive": "primitive type",
             "fn": "function", "macro": "macro", "mod": "module"}
    top = re.search(r'<details class="toggle top-doc" open>.*?<div class="docblock">(.*?)</details>', page, re.S)
    shown = f"{item}!" if kind == "macro" else item
    if top and "This is a nightly-only experimental API" not in page[: top.start()]:
        answer = rust_answer(top.group(1))
        name = full if kind == "fn" else shown
        aliases = [] if kind in ("macro", "primitive") else ["::".join(parts[1:-1] + [item])] if kind == "fn" else [full]
        if answer:
            facts.append({"source": "rust", "kind": kinds[kind], "name": name, "aliases": aliases, "answer": answer})
    # Methods of the item itself: everything before trait implementations and Deref targets.
    end = re.search(r'<h2 id="(trait-implementations|deref-methods|implementors|foreign-impls)', page)
    own = page[: end.start()] if end else page
    seen = set()
    pattern = (r'<section id="(?:method|tymethod)\.([A-Za-z0-9_]+?)(?:-\d+)?" class="method[^"]*">(.*?)</section>'
               r'(.*?)</summary>\s*<div class="docblock">(.*?)</div>')
    for method in re.finditer(pattern, own, re.S):
        name = method.group(1)
        if name in seen:
            continue
        seen.add(name)
        label = f"{item}::{name}"
        answer = None if "stab" in method.group(3) else rust_answer(method.group(4))
        if answer:
            facts.append({"source": "rust", "kind": "method", "name": label, "aliases": [], "answer": answer})
        else:
            unlisted.append(label)
    return facts, unlisted, page


def rust_facts(root: Path) -> tuple[list[dict], list[tuple[str, list[str]]], list[str]]:
    pages = list(RUST_TYPES)
    extra = [f"std/{m.stem}" for m in sorted((root / "std").glob("macro.*.html"))]
    for module in RUST_FUNCTION_MODULES:
        extra += [f"std/{module}/{p.stem}" for p in sorted((root / "std" / module).glob("fn.*.html"))]
    pages[24:24] = extra
    facts, unlisted, documents, names = [], [], [], set()
    for page_path in pages:
        if not (root / f"{page_path}.html").exists():
            continue
        found, rest, _ = rust_page_facts(root, page_path)
        unlisted += rest
        for fact in found:
            if fact["name"].lower() not in names:
                names.add(fact["name"].lower())
                facts.append(fact)
    texts = [root / f"{p}.html" for p in pages] + sorted((root / "std").glob("*/index.html"))
    for path in texts:
        if path.exists():
            documents.append((f"rust:{path.relative_to(root)}", rust_paragraphs(path.read_text("utf-8", "replace"))))
    for book in ("book", "reference", "rust-by-example", "nomicon", "cargo", "edition-guide"):
        for path in sorted((root / book).rglob("*.html")):
            if path.name == "print.html":
                continue
            body = path.read_text("utf-8", "replace")
            body = body[body.find("<main"):]
            documents.append((f"rust:{path.relative_to(root)}", [html_text(p) for p in re.findall(r"<p>(.*?)</p>", body, re.S)]))
    return facts, documents, unlisted


# ---------------------------------------------------------------------- Python

def python_doc(obj: object) -> str:
    try:
        return inspect.getdoc(obj) or ""
    except Exception:  # noqa: BLE001  A docstring may be any descriptor.
        return ""


def python_answer(obj: object, name: str) -> str | None:
    doc = python_doc(obj)
    block = doc.split("\n\n")[0].strip()
    short = name.split(".")[-1]
    # Docstrings of C functions may open with their signature: "len(obj, /) -> int -- text".
    said = re.match(rf"(?:\w+\.)?{re.escape(short)}\(\)\s*->\s*((?:an?|the|x) [^\n]+?)(?:\n|$)", block)
    if said and "--" not in said.group(1):
        return as_answer(said.group(1))
    match = re.match(rf"(?:[\w.]*\.)?{re.escape(short)}\([^\n]*?\)\s*(?:->\s*[^\n]*?)?(?:--\s*|\n|$)", block)
    if match:
        block = block[match.end():].strip() or (doc.split("\n\n") + ["", ""])[1].strip()
    if re.match(rf"(?:[\w.]*\.)?{re.escape(short)}\(", block):
        return None
    sentence = re.sub(r"``(.*?)``|:\w+:`(.*?)`", lambda m: f"`{m.group(1) or m.group(2)}`", first_sentence(block))
    return as_answer(sentence)


def python_members(prefix: str, owner: object) -> list[tuple[str, object]]:
    members = []
    for key, value in sorted(vars(owner).items()):
        if key.startswith("_") or (not callable(value) and not isinstance(value, (property, staticmethod, classmethod))):
            continue
        members.append((f"{prefix}.{key}", getattr(owner, key, value)))
    return members


def python_facts() -> tuple[list[dict], list[tuple[str, list[str]]], list[str]]:
    facts, unlisted, documents, names, objects = [], [], [], set(), set()

    def add(name: str, obj: object, kind: str) -> None:
        if name.lower() in names:
            return
        try:
            hash(obj)
        except TypeError:
            return
        answer = python_answer(obj, name)
        inherited = python_doc(type(obj)) if not inspect.isclass(obj) else ""
        if answer and python_doc(obj) != inherited:
            names.add(name.lower())
            facts.append({"source": "python", "kind": kind, "name": name, "aliases": [], "answer": answer})
        else:
            unlisted.append(name)

    import builtins
    for key, value in sorted(vars(builtins).items()):
        if key.startswith("_") or key in ("copyright", "credits", "license", "exit", "quit", "help", "In", "Out"):
            continue
        if inspect.isclass(value):
            add(key, value, "exception" if issubclass(value, BaseException) else "class")
        elif callable(value):
            add(key, value, "function")
    for key in PYTHON_BUILTIN_TYPES:
        for name, obj in python_members(key, getattr(builtins, key)):
            add(name, obj, "method")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module_name in PYTHON_MODULES:
            try:
                module = importlib.import_module(module_name)
            except Exception:  # noqa: BLE001  A module may be missing on this platform.
                continue
            documents.append((f"python:{module_name}", python_module_paragraphs(module)))
            add(module_name, module, "module")
            public = set(getattr(module, "__all__", ()) or [k for k in vars(module) if not k.startswith("_")])
            classes = []
            for key in sorted(public):
                value = getattr(module, key, None)
                home = getattr(value, "__module__", module_name) or module_name
                if inspect.ismodule(value) or value is None or isinstance(value, (int, str, float)):
                    continue
                if home.split(".")[0].lstrip("_") != module_name.split(".")[0] and home not in ("builtins", "posix", "genericpath", "posixpath"):
                    continue
                try:
                    if id(value) in objects:
                        continue
                    objects.add(id(value))
                except TypeError:
                    continue
                if inspect.isclass(value):
                    classes.append((f"{module_name}.{key}", value))
                    add(f"{module_name}.{key}", value, "exception" if issubclass(value, BaseException) else "class")
                elif callable(value):
                    add(f"{module_name}.{key}", value, "function")
            for name, value in classes:
                if len(name.split(".")) <= 3:
                    for member, obj in python_members(name, value):
                        add(member, obj, "method")
    return facts, documents, unlisted


def python_module_paragraphs(module: object) -> list[str]:
    texts = [python_doc(module)]
    for key, value in sorted(vars(module).items(), key=lambda kv: kv[0]):
        if inspect.isroutine(value) or inspect.isclass(value):
            texts.append(python_doc(value))
            if inspect.isclass(value):
                texts += [python_doc(v) for k, v in sorted(vars(value).items()) if inspect.isroutine(v)]
    out = []
    for text in dict.fromkeys(texts):
        out += [clean(p) for p in text.split("\n\n") if ">>>" not in p]
    return out


# ------------------------------------------------------------------------ main

def usable_paragraph(text: str) -> bool:
    if not 60 <= len(text) <= 1500:
        return False
    letters = sum(c.isalpha() or c == " " for c in text)
    return letters / len(text) > 0.8 and text.isascii() and "Licen" not in text and "http" not in text


def choose(facts: list[dict], limit: int, taken: set[str], answers: dict[str, int]) -> list[dict]:
    """The first `limit` facts whose name is free; at most 3 names may share one answer."""
    chosen = []
    for fact in facts:
        key = fact["name"].lower()
        if key in taken or answers.get(fact["answer"], 0) >= 3:
            continue
        taken.add(key)
        answers[fact["answer"]] = answers.get(fact["answer"], 0) + 1
        chosen.append(fact)
        if len(chosen) == limit:
            break
    return chosen


def cap_per_owner(facts: list[dict], cap: int) -> list[dict]:
    """Moves what exceeds `cap` facts of one owner (type or module) behind the rest."""
    count, first, later = {}, [], []
    for fact in facts:
        owner = re.split(r"::|\.", fact["name"])[0] if fact["source"] == "python" else fact["name"].split("::")[0]
        count[owner] = count.get(owner, 0) + 1
        (first if count[owner] <= cap else later).append(fact)
    return first + later


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for what is gathered")
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"))
    parser.add_argument("--rust-html", type=Path, help="default: share/doc/rust/html of the active toolchain")
    parser.add_argument("--facts", type=int, default=2400, help="facts in all, spread evenly over the sources")
    parser.add_argument("--text-mib", type=float, default=4.5, help="plain text to keep, MiB")
    args = parser.parse_args()
    root = args.rust_html or Path(subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True,
                                                 text=True).stdout.strip()) / "share/doc/rust/html"
    if not (root / "std").is_dir():
        sys.exit(f"no Rust documentation under {root}: try `rustup component add rust-docs`")
    args.out.mkdir(parents=True, exist_ok=True)
    gathered = {"man": man_facts(args.man), "rust": rust_facts(root), "python": python_facts()}
    taken: set[str] = set()
    answers: dict[str, int] = {}
    share, facts, unlisted = args.facts // 3, [], []
    # A bare name that two sources know is a command first; `python` names without a dot may clash.
    for source in ("man", "rust", "python"):
        ordered = gathered[source][0]
        if source == "rust":
            rank = {n: i for i, n in enumerate(COMMON_RUST)}
            ordered = sorted(cap_per_owner(ordered, 45), key=lambda f: rank.get(f["name"], 10_000))
        if source == "python":
            rank = {n: i for i, n in enumerate(COMMON_PYTHON)}
            ordered = sorted(cap_per_owner(ordered, 24), key=lambda f: rank.get(f["name"], 10_000))
        chosen = choose(ordered, share, taken, answers)
        facts += chosen
        picked = {f["name"] for f in chosen}
        unlisted += gathered[source][2] + [f["name"] for f in ordered if f["name"] not in picked]
        print(f"{source}: {len(ordered)} clean facts, {len(chosen)} chosen", file=sys.stderr)
    with (args.out / "facts.jsonl").open("w") as out:
        for fact in facts:
            out.write(json.dumps(fact) + "\n")
    known = {f["name"].lower() for f in facts} | {a.lower() for f in facts for a in f["aliases"]}
    (args.out / "unlisted.txt").write_text("".join(f"{n}\n" for n in sorted(set(unlisted)) if n.lower() not in known))
    write_text(args, {source: gathered[source][1] for source in gathered})


def write_text(args: argparse.Namespace, documents: dict[str, list]) -> None:
    """Equal shares of text by source; one document in twenty is held out, by a hash of its name."""
    budget = int(args.text_mib * 2**20 / 3)
    splits = {"train": io.StringIO(), "valid": io.StringIO()}
    seen: set[str] = set()
    for source, docs in documents.items():
        docs = sorted(docs, key=lambda d: hashlib.sha256(d[0].encode()).digest())
        used = 0
        for name, paragraphs in docs:
            held_out = hashlib.sha256(("split" + name).encode()).digest()[0] < 13
            kept = []
            for paragraph in paragraphs:
                if usable_paragraph(paragraph) and paragraph not in seen:
                    seen.add(paragraph)
                    kept.append(paragraph)
            if kept:
                body = "\n".join(kept) + "\n\n"
                used += len(body)
                splits["valid" if held_out else "train"].write(body)
            if used > budget:
                break
        print(f"{source}: {used / 2**20:.2f} MiB of text", file=sys.stderr)
    for split, text in splits.items():
        (args.out / f"text.{split}.txt").write_text(text.getvalue())


if __name__ == "__main__":
    main()
