//! `knarr image`: through the running cluster, or on the store itself when none is running.

use crate::Source;
use crate::daemon::{Answer, ImageRequest, Request, ask, images};
use crate::host::checks;
use crate::host::data::{self, Layout};
use crate::output::say;
use anyhow::Result;
use knarr_base::Ctx;

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    request: ImageRequest,
    #[command(flatten)]
    source: Source,
}

/// Carries the request out.
pub fn run(arguments: Arguments) -> Result<()> {
    checks::require_root("image")?;
    let config = arguments.source.load()?;
    let layout = Layout(config.data_dir.clone());
    let request = match arguments.request {
        ImageRequest::Import { file } => ImageRequest::Import { file: std::path::absolute(file)? },
        other => other,
    };
    let show = |answer| {
        if let Answer::Line(line) = answer {
            say(&line);
        }
    };
    if ask(&layout.socket(), &Request::Image(request.clone()), show)?.is_some() {
        return Ok(());
    }
    let _lock = data::open(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = images::open(&Ctx::system(), &layout.images(), &config)?;
        images::serve(&store, request, |line| say(&line)).await
    })
}
