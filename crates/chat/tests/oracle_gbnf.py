"""Writes tests/data/gbnf/cases.json: what llama.cpp's own GBNF parser and matcher accept.

    python crates/chat/tests/oracle_gbnf.py

Needs the package xllamacpp, whose library has llama.cpp in it; the grammar is driven through ctypes, character by
character. A text is accepted if llama.cpp follows it to the end and may end there; "prefix" is how many of its characters
it follows. Grammars that llama.cpp refuses have "refused": true.

The grammars are written here, in the manner of those that are published with llama.cpp. Texts are samples drawn from each
grammar by this script, their mutations, and the ones written beside it.
"""

import ctypes
import json
import os
import random
import sys
from pathlib import Path

GRAMMARS = {
    "literal": ('root ::= "yes" | "no"', ["yes", "no", "y", "yesno", ""]),
    "empty": ('root ::= "" | "a"', ["", "a", "aa"]),
    "escapes": (r'root ::= "\x41\u00e9\U0001F600\n\t\r\\\"\[\]\-" [\x00-\x1F\]\\\-^]', ["Aé😀\n\t\r\\\"[]-]", "Aé😀\n\t\r\\\"[]-^"]),
    "negated": (r"root ::= [^a-c\n]+", ["xyz", "a", "x\n", "é😀", ""]),
    "caret": (r"root ::= [\x5E^x] [^^]", ["^a", "xx", "x^", "aa"]),
    "caret-escape": (r"root ::= [\^]", []),
    "dash": ("root ::= [a-] [-b] [0-9-]", ["a-1", "-b-", "a-b", "ab9"]),
    "any": ('root ::= "<" .* ">"', ["<>", "<a>b>", "<\n>", "<", "a>"]),
    "any-count": ("root ::= .{2,3}", ["a", "ab", "é\n😀", "abcd"]),
    "counts": ('root ::= "a"{2} "b"{1,} "c"{0,2} "d"{3,3}', ["aabddd", "aabbbccddd", "aabccddd", "abddd", "aabdd", "aabcccddd"]),
    "greedy-literal": ('root ::= [a-z]* "x" [0-9]', ["abx1", "x1", "xx1", "xxxx5", "ab1", "abx"]),
    "greedy-choice": ('root ::= ("=" | "==") "=x" | "a" root', ["==x", "===x", "=x", "a==x", "aa===x", "====x"]),
    "prefix-choice": ('root ::= ("a" | "ab" | "abc") ("c" | "d") root?', ["ac", "abc", "abd", "abcc", "abcabd", "abcd", "abcdac", "ab"]),
    "optional": ('root ::= "a"? "b"? ("c" "d")?', ["", "ab", "abcd", "bcd", "cd", "ac", "ba"]),
    "comments": ('# a list\nroot ::= item ("," # between\n item)* # end\n\nitem ::= [0-9]+ # digits\n', ["1", "1,22", ",", "1,"]),
    "continued": ('root ::= "a" |\n  "b" |\n\n  "c"\n', ["a", "b", "c", "d"]),
    "names": ('root ::= Rule-1 rule-2x\nRule-1 ::= "a"\nrule-2x ::= "b"', ["ab", "a", "b"]),
    "list": ('root ::= ("- " item)+\nitem ::= [^\\n]+ "\\n"', ["- a\n", "- a\n- b\n", "- a", "a\n", "- \n"]),
    "arithmetic": (
        'root ::= (expr "=" ws term "\\n")+\n'
        "expr ::= term ([-+*/] term)*\n"
        'term ::= ident | num | "(" ws expr ")" ws\n'
        "ident ::= [a-z] [a-z0-9_]* ws\n"
        "num ::= [0-9]+ ws\n"
        "ws ::= [ \\t\\n]*",
        ["1+2=3\n", "(a - b) * 4 = x\n", "((1))=1\n", "1+=2\n", "(1=1\n", "a1_ +b = 2\n\n", "x=y"],
    ),
    "json": (
        "root ::= object\n"
        'value ::= object | array | string | number | ("true" | "false" | "null") ws\n'
        'object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws\n'
        'array ::= "[" ws ( value ("," ws value)* )? "]" ws\n'
        'string ::= "\\"" ( [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\\"" ws\n'
        'number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\n'
        'ws ::= | " " | "\\n" [ \\t]{0,20}',
        ['{}', '{"a":1}', '{"a": [1,2.5e-3, "x\\u00e9"], "b":{"c":null}}', '{"a":01}', '{"a" :1}', '{"a":1,}', '[1]', '{"é":true}\n  '],
    ),
    "json-tail-recursive-space": (
        'root ::= value\nvalue ::= "[" ws (value ("," ws value)*)? "]" ws | num\nnum ::= [0-9]+ ws\nws ::= ([ \\t\\n] ws)?',
        ["[]", "[ 1, 22 ]", "[[1],[ ]]", "[1 2]", "[,]", "7 ", "[1,]"],
    ),
    "chess": (
        'root ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")*\n'
        "move ::= (pawn | nonpawn | castle) [+#]?\n"
        'nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]\n'
        'pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?\n'
        'castle ::= "O-O" "-O"?',
        ["1. e4 e5\n", "1. e4 e5\n2. Nf3 Nc6\n", "1. Nbd2 exd5\n", "1. O-O O-O-O+\n", "1. e9 e5\n", "1. e8=Q# Kxa1\n", "1. e4 e5"],
    ),
    "c-like": (
        "root ::= (declaration)*\n"
        'declaration ::= dataType identifier "(" parameter? ")" "{" statement* "}"\n'
        'dataType ::= "int" ws | "float" ws | "char" ws\n'
        "identifier ::= [a-zA-Z_] [a-zA-Z_0-9]*\n"
        "parameter ::= dataType identifier\n"
        'statement ::= ( dataType identifier ws "=" ws expression ";" ) | ( identifier ws "=" ws expression ";" ) |\n'
        '  ( identifier ws "(" argList? ")" ";" ) | ( "return" ws expression ";" ) |\n'
        '  ( "while" "(" condition ")" "{" statement* "}" ) | ( singleLineComment )\n'
        "condition ::= expression relationOperator expression\n"
        'relationOperator ::= ("<=" | "<" | "==" | "!=" | ">=" | ">")\n'
        'expression ::= term (("+" | "-") term)*\n'
        'term ::= factor(("*" | "/") factor)*\n'
        'factor ::= identifier | number | unaryTerm | funcCall | parenExpression\n'
        'unaryTerm ::= "-" factor\n'
        'funcCall ::= identifier "(" argList? ")"\n'
        'parenExpression ::= "(" ws expression ws ")"\n'
        'argList ::= expression ("," ws expression)*\n'
        "number ::= [0-9]+\n"
        'singleLineComment ::= "//" [^\\n]* "\\n"\n'
        "ws ::= ([ \\t\\n]+)",
        ["int main(){return 1;}", "int f(float x){int y = x+1;while(y<=3){y = f(y)*2;}return (  y ) ;}", "int main(){// hi\n}", "int main()", "intmain(){}", "int main(){return 1}"],
    ),
    "nested-groups": ('root ::= ((("a" | ("b" "c")) ("d" | "e")?)+ "f"){1,2}', ["af", "bcdf", "adbceaff", "abfbcf", "f", "adf"]),
    "balanced": ('root ::= "(" root ")" | "[" root* "]" | "x"', ["x", "(x)", "[]", "[x(x)[x]]", "(", "()", "((x))", "[x"]),
    "palindrome": ('root ::= "a" root "a" | "b" root "b" | "c"', ["c", "aca", "abcba", "abcab", "ac", "aabcbaa"]),
    "ambiguous": ('root ::= "a" root | root2\nroot2 ::= "a" root2 "b" | ""', ["", "a", "aab", "aabb", "abb", "b", "aaab"]),
    "keywords": (
        'root ::= stmt (";" stmt)*\nstmt ::= "if" " " cond " then " stmt | name "=" name\ncond ::= name | "(" cond ")"\nname ::= [a-z]+',
        ["a=b", "if x then a=b", "if=b", "if ((x)) then if y then a=c;q=r", "if x then", "ifx=then", "if then=b"],
    ),
    "numbers": ('root ::= [0-9]+ ("." [0-9]+)? ("e" "-"? [0-9]{1,3})?', ["1", "1.5", "12.75e-10", "1.", "e5", "1e1234", "1.5.2"]),
    "unicode": ("root ::= [ぁ-ゟ]+ [à-ÿ]? [😀-😎]*", ["あい", "ありé", "あ😀😎", "é", "あx", "ア"]),
    "ranges-overlap": ("root ::= [a-mh-z] [A-Z]{2} [0-95-7]", ["aAA5", "zZZ9", "AAA1", "aA1"]),
    "left-after-empty": ('root ::= ws root2\nroot2 ::= "x" | "y" ws root2\nws ::= " "*', ["x", "  x", "y x", "yyx", "y", " y  y x"]),
    "csv": ('root ::= row ("\\n" row)*\nrow ::= cell ("," cell)*\ncell ::= [^",\\n]* | "\\"" ([^"] | "\\"\\"")* "\\""', ["a,b\n1,2", "\"a,\"\"b\"\"\",c", ",", "", "\"a", "a\"b"]),
    "xml": (
        'root ::= elem\nelem ::= "<" name attr* (">" (text | elem)* "</" name ">" | "/>")\nattr ::= " " name "=\\"" [^"<]* "\\""\nname ::= [a-z] [a-z0-9]*\ntext ::= [^<>]',
        ["<a/>", "<a>x</a>", "<a b=\"c\"><d/>t</a>", "<a>", "<a b></a>", "<a><b></a></b>"],
    ),
    "email": ('root ::= local "@" domain\nlocal ::= [a-z0-9.]+\ndomain ::= label ("." label)+\nlabel ::= [a-z] ([a-z0-9-]* [a-z0-9])?', ["a.b@c.de", "a@b", "a@b-c.d", "@b.c", "a@b-.c", "a@b.c-d.ef"]),
    "reasoning": ('root ::= "<think>" [^<]* "</think>" "\\n"* answer\nanswer ::= "yes" | "no" | "(" answer ")"', ["<think>hm</think>yes", "<think></think>\n\n(no)", "yes", "<think>a<b</think>yes"]),
    "same-start": ('root ::= ("foo" | "foobar" | "foobaz" root) "!"', ["foo!", "foobar!", "foobazfoo!!", "foobaz!", "fooba!"]),
    "no-root": ('a ::= "b"', []),
    "undefined": ('root ::= "a" missing', []),
    "bad-range-end": ('root ::= "a"{2', []),
    "nothing-to-repeat": ('root ::= *"a"', []),
    "open-text": ('root ::= "a', []),
    "open-class": ("root ::= [a", []),
    "open-group": ('root ::= ("a"', []),
    "bad-escape": (r'root ::= "\q"', []),
    "bad-hex": (r'root ::= "\x4"', []),
    "no-body": ("root", []),
    "two-colons": ('root :: "a"', []),
    "trailing": ('root ::= "a" )', []),
}


class Vector(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p)]


def library():
    import xllamacpp

    folder = Path(xllamacpp.__file__).parent
    lib = ctypes.CDLL(str(next(folder.glob("*.so"))))
    init = lib._Z23llama_grammar_init_implPK11llama_vocabPKcS3_bPS3_mPKim
    init.restype = ctypes.c_void_p
    init.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool] + [ctypes.c_void_p, ctypes.c_size_t] * 2
    accept = lib._Z20llama_grammar_acceptP13llama_grammarj
    accept.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    accept.restype = None
    stacks = lib._Z24llama_grammar_get_stacksP13llama_grammar
    stacks.restype = ctypes.POINTER(Vector)
    stacks.argtypes = [ctypes.c_void_p]
    free = lib._Z23llama_grammar_free_implP13llama_grammar
    free.argtypes = [ctypes.c_void_p]
    free.restype = None
    return init, accept, stacks, free


def state(stacks, grammar):
    """Whether a text may go on or end here, and whether it may end."""
    vector = stacks(grammar).contents
    size = ctypes.sizeof(Vector)
    count = ((vector.end or 0) - (vector.begin or 0)) // size
    items = [Vector.from_address(vector.begin + at * size) for at in range(count)]
    return count > 0, any(item.begin == item.end for item in items)


def run(functions, text, value):
    """How many characters of a value are followed, and whether it may end behind all of them."""
    init, accept, stacks, free = functions
    grammar = init(None, text.encode(), b"root", False, None, 0, None, 0)
    if not grammar:
        return None
    followed = 0
    alive, may_end = state(stacks, grammar)
    for c in value:
        accept(grammar, ord(c))
        alive, may_end = state(stacks, grammar)
        if not alive:
            break
        followed += 1
    free(grammar)
    return followed, alive and may_end


def walks(functions, text, alphabet, rng):
    """Random texts that the grammar follows, made by asking it."""
    made = []
    for _ in range(12):
        value = ""
        for _ in range(rng.randint(1, 24)):
            ways = [c for c in rng.sample(alphabet, len(alphabet)) if run(functions, text, value + c)[0] == len(value) + 1]
            if not ways:
                break
            value += ways[0]
        made.append(value)
    return made


def mutations(values, alphabet, rng):
    made = []
    for value in values:
        for _ in range(3):
            at = rng.randint(0, len(value))
            kind = rng.randint(0, 2)
            c = rng.choice(alphabet)
            made.append([value[:at] + value[at + 1 :], value[:at] + c + value[at:], value[:at] + c + value[at + 1 :]][kind])
    return made


def main():
    functions = library()
    rng = random.Random(7)
    cases = []
    for name, (text, written) in GRAMMARS.items():
        if run(functions, text, "") is None:
            cases.append({"name": name, "grammar": text, "refused": True})
            continue
        alphabet = sorted({c for c in text + "".join(written)})
        values = list(written) + walks(functions, text, alphabet, rng)
        values += mutations(values, alphabet, rng)
        texts = []
        for value in dict.fromkeys(values):
            followed, accepted = run(functions, text, value)
            texts.append([value, followed, accepted])
        cases.append({"name": name, "grammar": text, "texts": texts})
    out = Path(__file__).parent / "data" / "gbnf" / "cases.json"
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    out.write_text(f"[\n{lines}\n]\n")
    total = sum(len(case.get("texts", [])) for case in cases)
    accepted = sum(accepted for case in cases for _, _, accepted in case.get("texts", []))
    print(f"{len(cases)} grammars, {sum(case.get('refused', False) for case in cases)} refused, {total} texts, {accepted} accepted")


if __name__ == "__main__":
    main()
