//! Writes the suite's busybox image to the file that `KNARR_BUSYBOX_TO` names, for machines outside of the suite.

fn main() {
    let path = std::env::var_os("KNARR_BUSYBOX_TO").expect("KNARR_BUSYBOX_TO names a file");
    knarr_e2e::image::write(std::path::Path::new(&path));
}
