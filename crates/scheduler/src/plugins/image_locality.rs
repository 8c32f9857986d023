//! ImageLocality: prefers nodes that hold the pod's images already.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::Plugin;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Option<i64> {
        let images = pod.spec().containers.iter().filter_map(|c| c.image.as_deref());
        Some(images.filter(|image| node.images.contains(*image)).count() as i64)
    }
}
