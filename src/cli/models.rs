//! `ringlab models`: every value of every axis, and whether this kernel can do it.

use comfy_table::{ContentArrangement, Table, presets};

use super::Exit;
use crate::layout::Layout;
use crate::models::{MODELS, SIMULATED};
use crate::offload::Policy;
use crate::sandbox::Isolation;

/// List every value of every axis, and whether this kernel can do it
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Exit {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(80);
    table.set_header(["axis", "value", "here", "what it is"]);
    for model in MODELS {
        let here = match (model.check)() {
            Ok(()) => {
                let way_back = (model.way_back)();
                let sentence = model.sentence;
                (
                    "yes",
                    format!("{sentence} Answers of other threads come back {way_back}."),
                )
            }
            Err(reason) => ("no", format!("{} Not here: {reason}.", model.sentence)),
        };
        table.add_row(["model", model.name, here.0, &here.1]);
    }
    table.add_row(["model", SIMULATED.name, "tests", SIMULATED.sentence]);
    for layout in Layout::ALL {
        table.add_row(["layout", &layout.to_string(), "yes", layout.sentence()]);
    }
    for isolation in Isolation::ALL {
        table.add_row([
            "isolation",
            &isolation.to_string(),
            "yes",
            isolation.sentence(),
        ]);
    }
    for policy in Policy::ALL {
        table.add_row(["offload", &policy.to_string(), "yes", policy.sentence()]);
    }
    for (name, _, sentence) in ringlab_guest::handlers::ALL {
        table.add_row(["handler", name, "yes", sentence]);
    }
    for (name, sentence) in ringlab_guest::misbehaving::ALL {
        let sentence = format!("Misbehaves, in a sandbox only: {}", uncapitalised(sentence));
        table.add_row(["handler", name, "yes", &sentence]);
    }
    super::say(format_args!("{table}\n"));
    Exit::Done
}

/// To go on after a colon; the sentences are ASCII.
fn uncapitalised(sentence: &str) -> String {
    let (first, rest) = sentence.split_at(1);
    first.to_ascii_lowercase() + rest
}
