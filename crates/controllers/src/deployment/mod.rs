pub fn start(_: crate::framework::Start) {}
