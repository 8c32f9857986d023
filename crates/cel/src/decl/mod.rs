//! Declared types of data: what a structural schema says about a value, as far as expressions see it. A
//! [`DeclType`] gives the type checker its types, the cost estimate its sizes, and the evaluator the way JSON
//! becomes values. Follows upstream's `DeclType` (KEP-2876).

mod device;
pub mod escape;
mod kind;
mod schema;
mod well_known;

use crate::check::types::Type;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The largest request body, by which unbounded sizes are bounded.
const MAX_REQUEST_BYTES: i64 = 3 * 1024 * 1024;

/// A declared type.
#[derive(Clone, Debug)]
pub struct DeclType {
    name: Arc<str>,
    ty: Type,
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    /// Whether expressions may see values of this type.
    exposed: bool,
    max_elements: i64,
    min_serialized_size: i64,
}

/// What values of a declared type look like.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Scalar(Scalar),
    List {
        elem: Arc<DeclType>,
        identity: Identity,
    },
    Map {
        key: Arc<DeclType>,
        elem: Arc<DeclType>,
    },
    Object(Fields),
    /// Data without a schema, which can only be compared.
    Preserved,
}

/// How JSON becomes a value of a simple type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    IntOrString,
    /// As the JSON says.
    Dyn,
}

/// How elements of a list are told apart (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Atomic,
    Set,
    Map(Arc<[Arc<str>]>),
}

/// The fields of an object type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    /// By the name in JSON.
    by_name: BTreeMap<Arc<str>, Field>,
    /// The name in JSON by identifier; only of fields that expressions may see.
    by_identifier: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub decl: Arc<DeclType>,
}

impl Fields {
    fn insert(&mut self, name: &str, decl: Arc<DeclType>) {
        let name: Arc<str> = name.into();
        if decl.exposed
            && let Some(identifier) = escape::escape(&name)
        {
            self.by_identifier.insert(identifier.as_ref().into(), name.clone());
        }
        self.by_name.insert(name, Field { decl });
    }

    /// The field an identifier names; reserved words may be written without underscores.
    fn find(&self, identifier: &str) -> Option<&Field> {
        let name = match self.by_identifier.get(identifier) {
            Some(name) => name,
            None if escape::is_reserved(identifier) => {
                self.by_identifier.get(format!("__{identifier}__").as_str())?
            }
            None => return None,
        };
        self.by_name.get(name)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<DeclType>> {
        self.by_name.get(name).map(|field| &field.decl)
    }
}

impl DeclType {
    fn simple(name: &str, ty: Type, scalar: Scalar, min_serialized_size: i64, max_elements: i64) -> Self {
        Self {
            name: name.into(),
            ty,
            shape: Shape::Scalar(scalar),
            nullable: false,
            exposed: true,
            max_elements,
            min_serialized_size,
        }
    }

    /// `string` of any length.
    pub fn string() -> Arc<Self> {
        Arc::new(Self::simple("string", Type::String, Scalar::String, 2, 0))
    }

    /// `bool`.
    pub fn bool() -> Arc<Self> {
        Arc::new(Self::simple("bool", Type::Bool, Scalar::Bool, 4, 0))
    }

    /// `int`.
    pub fn int() -> Arc<Self> {
        Arc::new(Self::simple("int", Type::Int, Scalar::Int, 1, 0))
    }

    /// `double`.
    pub fn double() -> Arc<Self> {
        Arc::new(Self::simple("double", Type::Double, Scalar::Double, 1, 0))
    }

    /// `dyn`.
    pub fn dynamic() -> Arc<Self> {
        Arc::new(Self::simple("dyn", Type::Dyn, Scalar::Dyn, 1, 0))
    }

    /// `google.protobuf.Timestamp`.
    pub fn timestamp() -> Arc<Self> {
        Arc::new(Self::simple("timestamp", Type::Timestamp, Scalar::DateTime, 12, 0))
    }

    /// `google.protobuf.Any`: a value of whatever simple type.
    pub fn any() -> Arc<Self> {
        Arc::new(Self::simple("any", Type::Any, Scalar::Dyn, 1, 0))
    }

    /// `kubernetes.Quantity`.
    pub fn quantity() -> Arc<Self> {
        Arc::new(Self::simple("quantity", Type::object("kubernetes.Quantity"), Scalar::Dyn, 8, 0))
    }

    /// The same type for values of at most `max_elements` elements or bytes.
    pub fn sized(&self, max_elements: i64) -> Arc<Self> {
        Arc::new(Self { max_elements, ..self.clone() })
    }

    /// A list of at most `max_items` elements; -1 for any number.
    pub fn list(elem: Arc<Self>, max_items: i64) -> Arc<Self> {
        Arc::new(Self::list_of(elem, max_items, Identity::Atomic))
    }

    fn list_of(elem: Arc<Self>, max_items: i64, identity: Identity) -> Self {
        Self {
            name: "list".into(),
            ty: Type::list(elem.ty.clone()),
            exposed: elem.exposed,
            shape: Shape::List { elem, identity },
            nullable: false,
            max_elements: max_items,
            min_serialized_size: 2,
        }
    }

    /// A map of at most `max_properties` entries; -1 for any number.
    pub fn map(key: Arc<Self>, elem: Arc<Self>, max_properties: i64) -> Arc<Self> {
        Arc::new(Self::map_of(key, elem, max_properties))
    }

    fn map_of(key: Arc<Self>, elem: Arc<Self>, max_properties: i64) -> Self {
        Self {
            name: "map".into(),
            ty: Type::map(key.ty.clone(), elem.ty.clone()),
            exposed: elem.exposed,
            shape: Shape::Map { key, elem },
            nullable: false,
            max_elements: max_properties,
            min_serialized_size: 2,
        }
    }

    /// An object type. Unnamed ones are called `object` until [`Self::assign_type_name`].
    pub fn object<'n>(name: &str, fields: impl IntoIterator<Item = (&'n str, Arc<Self>)>) -> Arc<Self> {
        let mut table = Fields::default();
        fields.into_iter().for_each(|(name, decl)| table.insert(name, decl));
        Arc::new(Self::object_of(name, table, 2))
    }

    fn object_of(name: &str, fields: Fields, min_serialized_size: i64) -> Self {
        Self {
            name: name.into(),
            ty: Type::object(name),
            shape: Shape::Object(fields),
            nullable: false,
            exposed: true,
            max_elements: 0,
            min_serialized_size,
        }
    }

    /// The type expressions see.
    pub fn cel_type(&self) -> &Type {
        &self.ty
    }

    /// The name: `list`, `map`, `string` or that of an object type.
    pub fn type_name(&self) -> &str {
        &self.name
    }

    /// The largest number of elements, entries or bytes that a value can have.
    pub fn max_elements(&self) -> i64 {
        self.max_elements
    }

    /// The fewest bytes that a value takes as JSON.
    pub fn min_serialized_size(&self) -> i64 {
        self.min_serialized_size
    }

    /// How many such values fit into a request: how often a rule on this type may run.
    pub fn max_cardinality(&self) -> u64 {
        (MAX_REQUEST_BYTES / (self.min_serialized_size + 1)) as u64
    }

    /// The declared type of the elements of a list or the values of a map.
    pub fn elem(&self) -> Option<&Arc<DeclType>> {
        match &self.shape {
            Shape::List { elem, .. } | Shape::Map { elem, .. } => Some(elem),
            _ => None,
        }
    }

    pub(crate) fn key(&self) -> Option<&Arc<DeclType>> {
        match &self.shape {
            Shape::Map { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The declared type of a field, by its CEL identifier.
    pub fn field(&self, identifier: &str) -> Option<&Arc<DeclType>> {
        match &self.shape {
            Shape::Object(fields) => fields.find(identifier).map(|field| &field.decl),
            _ => None,
        }
    }

    /// Gives this object type a name, and the unnamed ones in it names by their path from it.
    pub fn assign_type_name(self: &Arc<Self>, name: &str) -> Arc<Self> {
        let renamed = match &self.shape {
            Shape::Object(fields) => {
                let name = if &*self.name == "object" { name } else { &self.name };
                let mut table = Fields { by_identifier: fields.by_identifier.clone(), ..Fields::default() };
                for (field, Field { decl }) in &fields.by_name {
                    let path = match escape::escape(field) {
                        Some(identifier) => format!("{name}.{identifier}"),
                        None => format!("{name}.{field}"),
                    };
                    table.by_name.insert(field.clone(), Field { decl: decl.assign_type_name(&path) });
                }
                let object = Self::object_of(name, table, self.min_serialized_size);
                Self { exposed: self.exposed, ..object }
            }
            Shape::Map { key, elem } => {
                Self::map_of(key.clone(), elem.assign_type_name(&format!("{name}.@elem")), self.max_elements)
            }
            Shape::List { elem, identity } => {
                let elem = elem.assign_type_name(&format!("{name}.@idx"));
                Self::list_of(elem, self.max_elements, identity.clone())
            }
            _ => return self.clone(),
        };
        Arc::new(Self { nullable: self.nullable, ..renamed })
    }

    /// Every object type in this one, with its name.
    pub(crate) fn visit_objects(self: &Arc<Self>, visitor: &mut dyn FnMut(&Arc<DeclType>)) {
        match &self.shape {
            Shape::Object(fields) => {
                visitor(self);
                fields.by_name.values().for_each(|field| field.decl.visit_objects(visitor));
            }
            Shape::List { elem, .. } | Shape::Map { elem, .. } => elem.visit_objects(visitor),
            _ => {}
        }
    }
}
