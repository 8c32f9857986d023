//! Between the API's times and the clock's.

use knarr_api::meta::v1::Time;
use std::time::{Duration, SystemTime};

/// A time for a status, in whole seconds as the API keeps them.
pub fn api_time(now: SystemTime) -> Option<Time> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    knarr_api::jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(Time)
}

/// An API time as the clock counts; times before 1970 count as 1970.
pub fn system_time(time: &Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(time.0.as_nanosecond()).unwrap_or_default())
}
