//! The commands, one file each.

pub mod agent;
pub mod detach;
pub mod down;
pub mod image;
pub mod snapshot;
pub mod status;
pub mod token;
pub mod unit;
pub mod up;
pub mod version;
