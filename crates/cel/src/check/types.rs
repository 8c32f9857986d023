//! The types of the CEL specification, and those that Kubernetes adds.

use std::fmt;
use std::sync::Arc;

/// A type of a value or of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Known only when evaluated.
    Dyn,
    /// `google.protobuf.Any`; as good as [`Type::Dyn`] here.
    Any,
    /// `bool`.
    Bool,
    /// `bytes`.
    Bytes,
    /// `double`.
    Double,
    /// `google.protobuf.Duration`.
    Duration,
    /// What an expression with a problem has.
    Error,
    /// `int`.
    Int,
    /// `null_type`.
    Null,
    /// `string`.
    String,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `uint`.
    Uint,
    /// `list(T)`.
    List(Arc<Type>),
    /// `map(K, V)`.
    Map(Arc<(Type, Type)>),
    /// A type known by name only, such as `optional_type(T)` or `net.IP`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// An object type.
    Struct(Arc<str>),
    /// The type of a type, where known which.
    Type(Option<Arc<Type>>),
    /// A type variable.
    Param(Arc<str>),
}

/// The name of optional types.
pub(crate) const OPTIONAL: &str = "optional_type";

impl Type {
    /// `list(elem)`.
    pub fn list(elem: Type) -> Self {
        Self::List(Arc::new(elem))
    }

    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// `optional_type(value)`.
    pub fn optional(value: Type) -> Self {
        Self::Opaque(OPTIONAL.into(), Arc::from([value]))
    }

    /// An object type of this name.
    pub fn object(name: &str) -> Self {
        Self::Struct(name.into())
    }

    /// The type of the variable `authorizer`.
    pub fn authorizer() -> Self {
        Self::object("kubernetes.authorization.Authorizer")
    }

    /// The type of the variable `authorizer.requestResource`.
    pub fn resource_check() -> Self {
        Self::object("kubernetes.authorization.ResourceCheck")
    }

    /// `Object`, the root of an apply configuration.
    pub fn object_patch() -> Self {
        Self::object("Object")
    }

    /// `JSONPatch`.
    pub fn json_patch() -> Self {
        Self::object("JSONPatch")
    }

    /// The name the type has for programs: `type(x) == name`.
    pub fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Any => "google.protobuf.Any",
            Self::Bool => "bool",
            Self::Bytes => "bytes",
            Self::Double => "double",
            Self::Duration => "google.protobuf.Duration",
            Self::Error => "error",
            Self::Int => "int",
            Self::Null => "null_type",
            Self::String => "string",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Uint => "uint",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Opaque(name, _) | Self::Struct(name) | Self::Param(name) => name,
            Self::Type(_) => "type",
        }
    }

    pub(crate) fn params(&self) -> &[Type] {
        match self {
            Self::List(elem) => std::slice::from_ref(elem),
            Self::Opaque(_, params) => params,
            Self::Type(Some(param)) => std::slice::from_ref(param),
            _ => &[],
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    /// The value's type, if this is an optional one.
    pub(crate) fn optional_value(&self) -> Option<&Type> {
        match self {
            Self::Opaque(name, params) if &**name == OPTIONAL => params.first(),
            _ => None,
        }
    }

    /// The same type but for the names of type variables.
    pub(crate) fn equivalent(&self, other: &Type) -> bool {
        match (self, other) {
            (Self::Param(_), Self::Param(_)) => true,
            (Self::List(a), Self::List(b)) => a.equivalent(b),
            (Self::Map(a), Self::Map(b)) => a.0.equivalent(&b.0) && a.1.equivalent(&b.1),
            (Self::Opaque(a, x), Self::Opaque(b, y)) => {
                a == b && x.len() == y.len() && x.iter().zip(y.iter()).all(|(x, y)| x.equivalent(y))
            }
            (Self::Type(Some(a)), Self::Type(Some(b))) => a.equivalent(b),
            _ => self == other,
        }
    }

    /// The name that problems use.
    pub(crate) fn shown(&self) -> Shown<'_> {
        Shown(self)
    }
}

/// The way API errors show an expression's type.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param(name) => write!(f, "<{name}>"),
            Self::Map(pair) => write!(f, "map({}, {})", pair.0, pair.1),
            _ => {
                f.write_str(self.name())?;
                write_params(f, self.params(), |param, f| write!(f, "{param}"))
            }
        }
    }
}

/// A type as problems show it.
pub(crate) struct Shown<'t>(&'t Type);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Type::Any => "any",
            Type::Duration => "duration",
            Type::Error => "!error!",
            Type::Null => "null",
            Type::Timestamp => "timestamp",
            Type::Map(pair) => return write!(f, "map({}, {})", pair.0.shown(), pair.1.shown()),
            other => other.name(),
        };
        f.write_str(name)?;
        write_params(f, self.0.params(), |param, f| write!(f, "{}", param.shown()))
    }
}

fn write_params(
    f: &mut fmt::Formatter<'_>,
    params: &[Type],
    write: impl Fn(&Type, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    for (index, param) in params.iter().enumerate() {
        f.write_str(if index == 0 { "(" } else { ", " })?;
        write(param, f)?;
    }
    if params.is_empty() { Ok(()) } else { f.write_str(")") }
}

/// Reads a type as the table of functions writes it: `map(K, list(V))`, `duration`, `net.IP`.
pub(super) fn read(text: &str) -> Type {
    let text = text.trim();
    let Some((name, rest)) = text.split_once('(') else {
        return match text {
            "dyn" => Type::Dyn,
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "duration" => Type::Duration,
            "int" => Type::Int,
            "null" => Type::Null,
            "string" => Type::String,
            "timestamp" => Type::Timestamp,
            "uint" => Type::Uint,
            "type" => Type::Type(None),
            "net.IP" | "net.CIDR" => Type::Opaque(text.into(), Arc::from([])),
            name if name.len() == 1 => Type::Param(name.into()),
            name => Type::Struct(name.into()),
        };
    };
    let inside = rest.strip_suffix(')').unwrap_or(rest);
    let mut params = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                params.push(read(&inside[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    params.push(read(&inside[start..]));
    match (name, params.as_slice()) {
        ("list", [elem]) => Type::list(elem.clone()),
        ("map", [key, value]) => Type::map(key.clone(), value.clone()),
        ("type", [param]) => Type::Type(Some(Arc::new(param.clone()))),
        _ => Type::Opaque(name.into(), params.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases = [
            ("map(string, list(int))", "map(string, list(int))", "map(string, list(int))"),
            ("list(A)", "list(<A>)", "list(A)"),
            ("timestamp", "google.protobuf.Timestamp", "timestamp"),
            (
                "optional_type(map(K, null))",
                "optional_type(map(<K>, null_type))",
                "optional_type(map(K, null))",
            ),
            ("type(int)", "type(int)", "type(int)"),
        ];
        for (text, display, shown) in cases {
            assert_eq!(read(text).to_string(), display);
            assert_eq!(read(text).shown().to_string(), shown);
        }
    }
}
