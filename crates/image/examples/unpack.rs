//! How long it takes to take in an image archive: imports it into an empty store, again and again, and prints the
//! seconds of each round. `unpack ARCHIVE DIRECTORY ROUNDS`; the directory is made, and removed after each round.

use knarr_base::Ctx;
use knarr_image::{ImageStore, Options, silent};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [archive, directory, rounds] = &arguments[..] else {
        return Err("usage: unpack ARCHIVE DIRECTORY ROUNDS".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let ctx = Ctx::system();
        for _ in 0..rounds.parse::<usize>()? {
            let store = ImageStore::open(&ctx, Path::new(directory), Options::default())?;
            let began = ctx.clock.instant();
            let images = store.import(Path::new(archive), silent()).await?;
            let seconds = (ctx.clock.instant() - began).as_secs_f64();
            println!("{seconds:.3} s, {} bytes of files", images[0].size_bytes);
            drop(store);
            std::fs::remove_dir_all(directory)?;
        }
        Ok(())
    })
}
