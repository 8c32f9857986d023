//! `knarr image`: through the running cluster, or on the store itself when none is running. Files are opened here, where
//! their paths mean what the person at the terminal thinks.

use crate::Source;
use crate::daemon::{Answer, ImageRequest, Request, ask_with, images};
use crate::host::checks;
use crate::host::data::{self, Layout};
use crate::output::{Transfers, say};
use anyhow::{Context, Result, bail};
use knarr_base::Ctx;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

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
    let mut request = arguments.request;
    let mut unfinished = None;
    let file = match &mut request {
        ImageRequest::Import { file } => source(file)?,
        ImageRequest::Save { output: Some(output), .. } => {
            let (file, path) = Unfinished::create(output)?;
            unfinished = Some(path);
            Some(file)
        }
        ImageRequest::Save { output: None, .. } => {
            let out = std::io::stdout();
            if out.is_terminal() {
                bail!("an archive is nothing for a terminal: name a file with -o, or redirect the output");
            }
            Some(out.as_fd().try_clone_to_owned()?.into())
        }
        ImageRequest::Pull { progress, .. } => {
            *progress = std::io::stdout().is_terminal();
            None
        }
        _ => None,
    };
    let transfers = Mutex::new(Transfers::new(&Ctx::system()));
    let show = move |answer| match answer {
        Answer::Line(line) => say(&line),
        Answer::Progress { item, done_bytes, total_bytes } => {
            let mut transfers = transfers.lock().expect("nobody panics while drawing");
            transfers.show(images::short(&item), done_bytes, total_bytes);
        }
        _ => {}
    };
    let asked = Request::Image(request.clone());
    if ask_with(&layout.socket(), &asked, file.as_ref().map(AsFd::as_fd), &show)?.is_none() {
        let _lock = data::open(&config.data_dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let store = images::open(&Ctx::system(), &layout.images(), &config)?;
            images::serve(&store, request, file, show).await
        })?;
    }
    unfinished.map_or(Ok(()), Unfinished::finish)
}

/// Opens what is to be imported; directories are read where they are.
fn source(path: &mut PathBuf) -> Result<Option<File>> {
    if path == Path::new("-") {
        let input = std::io::stdin();
        if input.is_terminal() {
            bail!("there is no archive on a terminal: name a file, or pipe one in");
        }
        *path = PathBuf::from("standard input");
        return Ok(Some(input.as_fd().try_clone_to_owned()?.into()));
    }
    *path = std::path::absolute(&*path)?;
    if path.is_dir() {
        return Ok(None);
    }
    let opened = File::open(&*path).with_context(|| format!("cannot import {}", path.display()));
    opened.map(Some)
}

/// A file being written under another name, which it gets when it is whole.
struct Unfinished {
    partial: Option<PathBuf>,
    path: PathBuf,
}

impl Unfinished {
    fn create(path: &Path) -> Result<(File, Self)> {
        // What is there and no file (/dev/stdout, a named pipe) is written to directly.
        let partial = match path.metadata() {
            Ok(there) if !there.is_file() => None,
            _ => {
                let mut name = path.as_os_str().to_owned();
                name.push(".partial");
                Some(PathBuf::from(name))
            }
        };
        let target = partial.as_deref().unwrap_or(path);
        let options = File::options().write(true).create(true).truncate(partial.is_some()).open(target);
        let file = options.with_context(|| format!("cannot write {}", path.display()))?;
        Ok((file, Self { partial, path: path.to_owned() }))
    }

    fn finish(mut self) -> Result<()> {
        match self.partial.take() {
            Some(partial) => std::fs::rename(&partial, &self.path)
                .with_context(|| format!("cannot write {}", self.path.display())),
            None => Ok(()),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = std::fs::remove_file(partial);
        }
    }
}
