//! The columns of a `meta.k8s.io/v1` Table.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One column. Priority 0 is shown always, higher ones with `kubectl get -o wide`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDefinition {
    /// The heading.
    pub name: Cow<'static, str>,
    /// OpenAPI type of the cells: `string`, `integer`, `number`, `boolean`, `date`.
    #[serde(rename = "type")]
    pub type_: Cow<'static, str>,
    /// OpenAPI format; `name` marks the column with the object's name.
    pub format: Cow<'static, str>,
    /// What the column shows.
    pub description: Cow<'static, str>,
    /// 0 is shown always.
    pub priority: i32,
}

impl ColumnDefinition {
    /// A column that is made at compile time.
    pub const fn new(
        name: &'static str,
        type_: &'static str,
        format: &'static str,
        description: &'static str,
        priority: i32,
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            type_: Cow::Borrowed(type_),
            format: Cow::Borrowed(format),
            description: Cow::Borrowed(description),
            priority,
        }
    }
}
