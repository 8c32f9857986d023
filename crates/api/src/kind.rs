//! The typed kinds: one trait over every k8s-openapi type that a Kubernetes 1.36 server stores or
//! answers, with its codec. The codec is compiled here and nowhere else: `decode` and `encode` are
//! concrete functions, so that no other crate instantiates serde for these types again (that alone is
//! most of the build time of a typical Rust program over Kubernetes types).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource, SubResourceScope};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

/// Why bytes are not an object of the expected kind.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The JSON is malformed, or a field has the wrong type.
    #[error("decode {kind}: {source}")]
    Object {
        /// The kind that was expected.
        kind: &'static str,
        /// What serde found.
        source: serde_json::Error,
    },
    /// The JSON is not a list object.
    #[error("decode list: {0}")]
    List(#[source] serde_json::Error),
}

/// A Kubernetes kind with its Rust type, where it is served, and its JSON codec.
pub trait Kind: Send + Sync + Clone + std::fmt::Debug + 'static {
    /// The API group, empty for core.
    const GROUP: &'static str;
    /// The version in the group.
    const VERSION: &'static str;
    /// `group/version`, or the version alone for core.
    const API_VERSION: &'static str;
    /// The kind's name.
    const KIND: &'static str;
    /// The resource in the URL; for a kind that is only a subresource, the subresource's name.
    const PLURAL: &'static str;
    /// Whether its objects live in namespaces.
    const NAMESPACED: bool;

    /// Reads an object from JSON. Missing `kind` and `apiVersion` are accepted (list items omit them),
    /// others than this kind's are refused.
    fn decode(json: &[u8]) -> Result<Self, DecodeError>;
    /// Writes the object as JSON, with `kind` and `apiVersion`.
    fn encode(&self) -> Vec<u8>;
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// Reads an object from a JSON value.
    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        // Through bytes: a second instantiation of serde for every type costs more build time than this
        // costs at run time.
        Self::decode(&to_bytes(value))
    }
    /// The object as a JSON value, with `kind` and `apiVersion`.
    fn to_value(&self) -> Value {
        parse_value(&self.encode())
    }
    /// The object's name, empty when it has none yet.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    /// The object's namespace, empty for cluster-scoped kinds.
    fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
    /// The object's UID, empty before it was created.
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
    /// The object's resourceVersion, empty before it was created.
    fn resource_version(&self) -> &str {
        self.meta().resource_version.as_deref().unwrap_or_default()
    }
    /// Reads a list of this kind as the server answers it.
    fn decode_list(json: &[u8]) -> Result<(ListMeta, Vec<Self>), DecodeError> {
        let list = RawList::parse(json)?;
        let items =
            list.items.iter().map(|raw| Self::decode(raw.get().as_bytes())).collect::<Result<_, _>>()?;
        Ok((list.metadata, items))
    }
}

/// A list whose items are still JSON text: what a list of any kind is read into first.
#[derive(Debug, serde::Deserialize)]
pub struct RawList<'a> {
    /// The list's own metadata: resourceVersion, continue, remaining items.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The items, unparsed.
    #[serde(borrow, default, deserialize_with = "null_is_empty")]
    pub items: Vec<&'a RawValue>,
}

impl<'a> RawList<'a> {
    /// Splits the JSON of a list into its items.
    pub fn parse(json: &'a [u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(json).map_err(DecodeError::List)
    }
}

/// Go writes an empty list without items as `"items":null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<&'de RawValue>, D::Error> {
    use serde::Deserialize as _;
    Ok(Option::<Vec<&RawValue>>::deserialize(d)?.unwrap_or_default())
}

/// The scopes of k8s-openapi as a constant.
trait Scope {
    const NAMESPACED: bool;
}
impl Scope for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}
impl Scope for ClusterResourceScope {
    const NAMESPACED: bool = false;
}
/// The kinds that exist only as a subresource (Scale, Eviction, TokenRequest) are those of namespaced ones.
impl Scope for SubResourceScope {
    const NAMESPACED: bool = true;
}

fn to_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value always serializes")
}

fn parse_value(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("an encoded object is JSON")
}

/// One of the typed kinds, for code that runs over all of them.
#[derive(Clone, Copy, Debug)]
pub struct KindEntry {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// The kind's name.
    pub kind: &'static str,
    /// [`Kind::PLURAL`].
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Decodes JSON into the type and encodes it again.
    pub reencode: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

impl KindEntry {
    const fn of<K: Kind>() -> Self {
        Self {
            group: K::GROUP,
            version: K::VERSION,
            kind: K::KIND,
            plural: K::PLURAL,
            namespaced: K::NAMESPACED,
            reencode: |json| Ok(K::decode(json)?.encode()),
        }
    }
}

macro_rules! kinds {
    ($($module:path: [$($kind:ident),* $(,)?];)*) => {
        const _: () = {
            $($({
                use $module as module;
                impl_kind!(module::$kind);
            })*)*
        };

        /// Every typed kind.
        pub const KINDS: &[KindEntry] = &[$($({
            use $module as module;
            KindEntry::of::<module::$kind>()
        },)*)*];
    };
}

macro_rules! impl_kind {
    ($ty:ty) => {
        impl Kind for $ty {
            const GROUP: &'static str = <$ty as Resource>::GROUP;
            const VERSION: &'static str = <$ty as Resource>::VERSION;
            const API_VERSION: &'static str = <$ty as Resource>::API_VERSION;
            const KIND: &'static str = <$ty as Resource>::KIND;
            const PLURAL: &'static str = <$ty as Resource>::URL_PATH_SEGMENT;
            const NAMESPACED: bool = <<$ty as Resource>::Scope as Scope>::NAMESPACED;

            fn decode(json: &[u8]) -> Result<Self, DecodeError> {
                serde_json::from_slice(json)
                    .map_err(|source| DecodeError::Object { kind: <$ty as Resource>::KIND, source })
            }
            fn encode(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("a typed object always serializes")
            }
            fn meta(&self) -> &ObjectMeta {
                Metadata::metadata(self)
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                Metadata::metadata_mut(self)
            }
        }
    };
}

// The implementations. A kind is added by naming it here.
kinds! {
    crate::core::v1: [
        Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
        PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController,
        ResourceQuota, Secret, Service, ServiceAccount,
    ];
    crate::admissionregistration::v1: [
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    ];
    crate::apiextensions::v1: [CustomResourceDefinition];
    crate::apiregistration::v1: [APIService];
    crate::apps::v1: [ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet];
    crate::authentication::v1: [SelfSubjectReview, TokenRequest, TokenReview];
    crate::authorization::v1: [
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    ];
    crate::autoscaling::v1: [HorizontalPodAutoscaler, Scale];
    crate::autoscaling::v2: [HorizontalPodAutoscaler];
    crate::batch::v1: [CronJob, Job];
    crate::certificates::v1: [CertificateSigningRequest];
    crate::coordination::v1: [Lease];
    crate::discovery::v1: [EndpointSlice];
    crate::events::v1: [Event];
    crate::flowcontrol::v1: [FlowSchema, PriorityLevelConfiguration];
    crate::networking::v1: [Ingress, IngressClass, IPAddress, NetworkPolicy, ServiceCIDR];
    crate::node::v1: [RuntimeClass];
    crate::policy::v1: [Eviction, PodDisruptionBudget];
    crate::rbac::v1: [ClusterRole, ClusterRoleBinding, Role, RoleBinding];
    crate::resource::v1: [DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice];
    crate::scheduling::v1: [PriorityClass];
    crate::storage::v1: [
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::v1::{Pod, Service};

    #[test]
    fn constants_name_where_a_kind_is_served() {
        fn place<K: Kind>() -> (&'static str, &'static str, &'static str, bool) {
            (K::GROUP, K::API_VERSION, K::PLURAL, K::NAMESPACED)
        }
        assert_eq!(place::<Pod>(), ("", "v1", "pods", true));
        let role = ("rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1", "clusterroles", false);
        assert_eq!(place::<crate::rbac::v1::ClusterRole>(), role);
    }

    #[test]
    fn a_list_is_decoded_item_by_item_and_null_items_are_none() {
        let json = br#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7"},
            "items":[{"metadata":{"name":"a","uid":"u"},"spec":{"clusterIP":"10.0.0.1"}}]}"#;
        let (meta, items) = Service::decode_list(json).unwrap();
        assert_eq!(meta.resource_version.as_deref(), Some("7"));
        assert_eq!((items[0].name(), items[0].uid()), ("a", "u"));
        assert!(Service::decode_list(br#"{"items":null}"#).unwrap().1.is_empty());
    }

    #[test]
    fn another_kind_and_malformed_bytes_are_errors_that_name_the_kind() {
        let err = Pod::decode(br#"{"kind":"Service","apiVersion":"v1"}"#).unwrap_err();
        assert!(err.to_string().starts_with("decode Pod: "), "{err}");
        assert!(Pod::decode(b"{").is_err());
    }

    #[test]
    fn the_types_and_the_facts_have_the_same_fields() {
        use crate::facts::{decl, sample};
        let messages = decl::messages();
        let mut wrong = Vec::new();
        for entry in KINDS {
            let mut kinds = sample::kinds(&messages);
            let message = kinds.find(|m| {
                (m.package.group, m.package.version, m.name) == (entry.group, entry.version, entry.kind)
            });
            let object = sample::kind_sample(&messages, message.expect("the facts have every typed kind"));
            match (entry.reencode)(&to_bytes(&object)) {
                Ok(json) => differences(entry.kind, &object, &parse_value(&json), &mut wrong),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn differences(path: &str, facts: &Value, typed: &Value, found: &mut Vec<String>) {
        match (facts, typed) {
            (Value::Object(facts), Value::Object(typed)) => {
                for key in facts.keys().chain(typed.keys().filter(|key| !facts.contains_key(*key))) {
                    match (facts.get(key), typed.get(key)) {
                        (Some(facts), Some(typed)) => {
                            differences(&format!("{path}.{key}"), facts, typed, found)
                        }
                        // k8s-openapi writes the type of a nested object (volumeClaimTemplates) too.
                        (None, Some(_)) if key == "apiVersion" || key == "kind" => {}
                        (None, Some(value)) => found.push(format!("{path}.{key}: only the type has {value}")),
                        (_, None) => found.push(format!("{path}.{key}: only the facts have it")),
                    }
                }
            }
            (Value::Array(facts), Value::Array(typed)) if facts.len() == typed.len() => {
                for (index, (facts, typed)) in facts.iter().zip(typed).enumerate() {
                    differences(&format!("{path}[{index}]"), facts, typed, found);
                }
            }
            _ if facts == typed => {}
            _ => found.push(format!("{path}: {facts} in the facts, {typed} in the type")),
        }
    }

    #[test]
    fn values_and_bytes_agree() {
        let pod = serde_json::json!({"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"},
            "spec":{"containers":[{"name":"c","image":"i"}]}});
        assert_eq!(Pod::from_value(&pod).unwrap().to_value(), pod);
    }
}
