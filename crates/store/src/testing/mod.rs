//! What tests of this and other rooms share. Not part of the program: behind the feature `testing`.

pub mod etcd;
pub mod remote;
