//! The pod network: addresses and links of pods ([`pods`]), services over nftables ([`proxy`]) and the cluster's DNS
//! ([`dns`]). Pods are routed, not bridged; everything is written through netlink, and everything that is put on the
//! host can be taken off again ([`host`]).

pub mod netlink;
