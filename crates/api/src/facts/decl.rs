//! The declarations of every message in `facts/types.txt`, the one table that the schema, the protobuf
//! codec and the OpenAPI documents are built from.
//!
//! A line `@alias prefix group version` opens a package, `:Name` a message (`*` after it: the type
//! carries `kind` and `apiVersion`; `#`: apply merges it as a whole), and every other line is a field: protobuf
//! number, JSON name, type, flags, extras.
//! Types: `s` string, `b` bool, `i` int32, `l` int64, `d` double, `y` bytes, `Q` Quantity, `I` IntOrString,
//! `T` Time, `M` MicroTime, `D` Duration, `R` RawExtension, `F` FieldsV1, `V` a message that wraps a list of
//! strings, `J` any JSON, `A` `B` `S` a JSON schema or an array of them, a bool, or strings; `[x` list of x,
//! `{x` map to x; anything else is a message, with its package's alias unless it is in the same package.
//! Flags: `~` JSON inlines what protobuf nests, `?` absent differs from zero (a pointer in Go), `!` upstream
//! writes it even when empty, `+` required. Extras: `l=` list type and keys, `a` atomic map, `p=` patch
//! strategy (`m` merge, `k` retainKeys, `r` replace) and merge key, `d=` default,
//! `e=` the values of an enumeration.

/// A package: a group and version with its names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// How other packages refer to it: `core.v1`.
    pub alias: &'static str,
    /// The prefix of its OpenAPI definition names: `io.k8s.api.core.v1`.
    pub prefix: &'static str,
    /// API group, empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    pub package: Package,
    pub name: &'static str,
    /// Whether its JSON has `kind` and `apiVersion`, which protobuf carries in the envelope.
    pub type_meta: bool,
    /// Whether apply merges it as a whole wherever it stands.
    pub atomic: bool,
    pub fields: Vec<Field>,
}

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub number: u32,
    /// JSON name; meaningless where `inline`.
    pub name: &'static str,
    /// The type's code, without the list or map mark.
    pub ty: &'static str,
    pub shape: Shape,
    pub inline: bool,
    pub pointer: bool,
    pub always: bool,
    pub required: bool,
    /// `atomic`, `set`, `map`, or none.
    pub list: Option<&'static str>,
    pub list_keys: Vec<&'static str>,
    pub atomic_map: bool,
    pub patch_merge: bool,
    pub patch_replace: bool,
    pub retain_keys: bool,
    pub merge_key: Option<&'static str>,
    /// The values of an enumeration.
    pub values: Vec<&'static str>,
    /// The default as JSON text.
    pub default: Option<&'static str>,
}

/// How often a field's type occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    List,
    Map,
}

/// Parses the table. Cheap enough (about a millisecond) that nobody keeps the result.
pub(crate) fn messages() -> Vec<Message> {
    let mut package = None;
    let mut all: Vec<Message> = Vec::with_capacity(900);
    for line in include_str!("../../facts/types.txt").lines() {
        if let Some(rest) = line.strip_prefix('@') {
            let mut columns = rest.split('\t');
            let mut next = || columns.next().expect("a package line of the facts has four columns");
            package = Some(Package { alias: next(), prefix: next(), group: next(), version: next() });
        } else if let Some(name) = line.strip_prefix(':') {
            all.push(Message {
                package: package.expect("the facts open a package before its messages"),
                name: name.trim_end_matches(['*', '#']),
                type_meta: name.contains('*'),
                atomic: name.contains('#'),
                fields: Vec::new(),
            });
        } else {
            all.last_mut().expect("the facts open a message before its fields").fields.push(field(line));
        }
    }
    all
}

fn field(line: &'static str) -> Field {
    let mut columns = line.split('\t');
    let number = columns.next().and_then(|n| n.parse().ok()).expect("a field of the facts has a number");
    let name = columns.next().expect("a field of the facts has a name");
    let code = columns.next().expect("a field of the facts has a type");
    let flags = columns.next().unwrap_or_default();
    let (shape, ty) = match code.as_bytes()[0] {
        b'[' => (Shape::List, &code[1..]),
        b'{' => (Shape::Map, &code[1..]),
        _ => (Shape::One, code),
    };
    let mut field = Field {
        number,
        name,
        ty,
        shape,
        inline: flags.contains('~'),
        pointer: flags.contains('?'),
        always: flags.contains('!'),
        required: flags.contains('+'),
        list: None,
        list_keys: Vec::new(),
        atomic_map: false,
        patch_merge: false,
        patch_replace: false,
        retain_keys: false,
        merge_key: None,
        values: Vec::new(),
        default: None,
    };
    for extra in columns {
        match extra.split_once('=') {
            Some(("l", list)) => {
                let (kind, keys) = list.split_once(':').unwrap_or((list, ""));
                field.list = Some(kind);
                field.list_keys = keys.split(',').filter(|key| !key.is_empty()).collect();
            }
            Some(("p", patch)) => {
                let (strategy, key) = patch.split_once(':').unwrap_or((patch, ""));
                field.patch_merge = strategy.contains('m');
                field.retain_keys = strategy.contains('k');
                field.patch_replace = strategy.contains('r');
                field.merge_key = (!key.is_empty()).then_some(key);
            }
            Some(("e", values)) => field.values = values.split('|').collect(),
            Some(("d", default)) => field.default = Some(default),
            _ => field.atomic_map = true,
        }
    }
    field
}

/// The packages of a parsed table, each with its place in the table.
pub(crate) fn packages(messages: &[Message]) -> Vec<Package> {
    let mut all: Vec<Package> = messages.iter().map(|m| m.package).collect();
    all.dedup_by_key(|p| p.alias);
    all
}
