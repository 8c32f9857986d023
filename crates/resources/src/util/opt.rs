//! Optional fields read as Go reads them: an absent string is empty, an absent list has no items.

use std::collections::BTreeMap;

/// An optional string as text.
pub trait Text {
    /// The text, empty when absent.
    fn text(&self) -> &str;
}

impl Text for Option<String> {
    fn text(&self) -> &str {
        self.as_deref().unwrap_or_default()
    }
}

/// An optional list.
pub trait Items<T> {
    /// The items, none when absent.
    fn items(&self) -> &[T];
}

impl<T> Items<T> for Option<Vec<T>> {
    fn items(&self) -> &[T] {
        self.as_deref().unwrap_or_default()
    }
}

/// An optional flag.
pub trait Flag {
    /// Whether the flag is present and true.
    fn on(&self) -> bool;
}

impl Flag for Option<bool> {
    fn on(&self) -> bool {
        *self == Some(true)
    }
}

/// An optional number.
pub trait Number {
    /// The number, 0 when absent.
    fn number(&self) -> i64;
}

impl Number for Option<i32> {
    fn number(&self) -> i64 {
        i64::from(self.unwrap_or_default())
    }
}

impl Number for Option<i64> {
    fn number(&self) -> i64 {
        self.unwrap_or_default()
    }
}

/// An optional map.
pub trait Pairs<V> {
    /// The entries in order of their keys.
    fn pairs<'a>(&'a self) -> impl Iterator<Item = (&'a str, &'a V)>
    where
        V: 'a;
    /// The value under `key`.
    fn at(&self, key: &str) -> Option<&V>;
}

impl<V> Pairs<V> for Option<BTreeMap<String, V>> {
    fn pairs<'a>(&'a self) -> impl Iterator<Item = (&'a str, &'a V)>
    where
        V: 'a,
    {
        self.iter().flatten().map(|(k, v)| (k.as_str(), v))
    }
    fn at(&self, key: &str) -> Option<&V> {
        self.as_ref()?.get(key)
    }
}
