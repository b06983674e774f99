//! `hublab convert`: a Hugging Face checkpoint folder, or that of a PEFT adapter, to one GGUF file.

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hublabio_convert::{Error, OutputType, Plan};

use crate::EXIT_INTERRUPTED;
use crate::args::ConvertArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};

pub fn convert(args: &ConvertArgs) -> Result<ExitCode> {
    let plan = match &args.base {
        Some(base) => Plan::adapter(&args.folder, base, args.ty)?,
        None => Plan::new(&args.folder, args.ty)?,
    };
    for note in plan.notes() {
        output::note(note);
    }
    let interrupt = Interrupt::listen()?;
    let mut line = Progress::new();
    let written = plan.write(&args.out, args.force, &mut |now| {
        line.show(&format!("{}/{} {}", now.tensors_done + 1, now.n_tensors, output::one_line(now.tensor, 60)));
        if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(line);
    match written {
        Err(Error::Stopped) => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
        written => written?,
    }
    let size = std::fs::metadata(&args.out).with_context(|| format!("cannot read {}", args.out.display()))?.len();
    let report = format!(
        "{}: {}, {} tensors, {}, {}\n",
        args.out.display(),
        plan.family().gguf_name(),
        plan.n_tensors(),
        plan.ty(),
        output::byte_size(size)
    );
    output::bytes(output::without_controls(&report).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Types that a conversion can write; the others are made from its result.
pub fn output_type(text: &str) -> Result<OutputType, String> {
    Ok(match text.to_ascii_uppercase().as_str() {
        "AUTO" => OutputType::Auto,
        "F32" => OutputType::F32,
        "F16" => OutputType::F16,
        "BF16" => OutputType::Bf16,
        "Q8_0" => OutputType::Q8_0,
        _ => {
            return Err("give F32, F16, BF16, Q8_0 or auto; `hublab quantize` makes other types from the result".into());
        }
    })
}
