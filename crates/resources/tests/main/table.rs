//! The table of kinds is complete.

use std::path::Path;

fn kind_files(dir: &Path, found: &mut Vec<String>, root: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            kind_files(&path, found, root);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("\npub fn def() -> ResourceDef") {
                let relative = path.strip_prefix(root).unwrap().with_extension("");
                let module: Vec<_> = relative.iter().map(|p| p.to_str().unwrap()).collect();
                let module = module.join("::");
                found.push(module.strip_suffix("::mod").unwrap_or(&module).to_owned());
            }
        }
    }
}

#[test]
fn every_file_of_a_kind_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    kind_files(&root, &mut files, &root);
    assert!(files.len() > 20, "the kinds are found: {files:?}");
    let table = std::fs::read_to_string(root.join("table.rs")).unwrap();
    // A file whose declaration is handed on under another name by its folder.
    let missing: Vec<&String> = files
        .iter()
        .filter(|f| *f != "core::pod::binding" && !table.contains(&format!("{f}::def()")))
        .collect();
    assert!(missing.is_empty(), "not in src/table.rs: {missing:?}");
}

#[test]
fn no_resource_is_declared_twice() {
    let mut seen = std::collections::BTreeSet::new();
    for def in knarr_resources::all() {
        assert!(seen.insert((def.group.clone(), def.resource.clone())), "{}/{}", def.group, def.resource);
    }
}

#[test]
fn what_upstream_serves_and_this_does_not_is_known() {
    let all = knarr_resources::all();
    let mut missing: Vec<String> = knarr_api::facts::resources()
        .iter()
        .filter(|f| !f.resource.contains('/'))
        .filter(|f| {
            !all.iter().any(|d| {
                d.group == f.group
                    && d.resource == f.resource
                    && d.versions.iter().any(|v| v.version == f.version)
            })
        })
        .map(|f| format!("{}/{}/{}", f.group, f.version, f.resource))
        .collect();
    missing.sort();
    assert_eq!(missing, NOT_DECLARED, "this list may only shrink");
}

/// Resources of upstream that are declared elsewhere (reviews and component statuses: the front half of the API server)
/// or pending.
const NOT_DECLARED: &[&str] = &[
    "/v1/componentstatuses",
    "authentication.k8s.io/v1/selfsubjectreviews",
    "authentication.k8s.io/v1/tokenreviews",
    "authorization.k8s.io/v1/localsubjectaccessreviews",
    "authorization.k8s.io/v1/selfsubjectaccessreviews",
    "authorization.k8s.io/v1/selfsubjectrulesreviews",
    "authorization.k8s.io/v1/subjectaccessreviews",
];
