//! Tests of the store. [`suite`] is what every backend must do; the rest is about the embedded one.

mod directory;
mod etcd;
mod failpoints;
mod full_disk;
mod history;
mod keyspaces;
mod kill;
mod power;
mod restart;
mod snapshot;
mod suite;
