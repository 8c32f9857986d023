//! Collects the descriptions of API types and fields, which `kubectl explain` prints, from the documentation
//! comments of the k8s-openapi sources that this build compiles anyway. They end up as one text file in
//! `OUT_DIR`: every distinct text once, then which type and field it describes.
//!
//! A build without those sources at hand still succeeds; its documents then have no descriptions.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The definitions, with the API version that the workspace enables.
const DEFINITIONS: &str = "src/v1_36";
/// Where the texts of `apiVersion` and `kind` are filed.
const TYPE_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.TypeMeta";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut found = Descriptions::default();
    match source().filter(|root| root.join(DEFINITIONS).is_dir()) {
        Some(root) => {
            println!("cargo::rerun-if-changed={}", root.join("Cargo.toml").display());
            found.read_folder(&root.join(DEFINITIONS));
        }
        None => {
            println!("cargo::warning=no k8s-openapi sources found: kubectl explain will have no descriptions")
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("descriptions.txt"), found.render()).expect("OUT_DIR is writable");
}

/// The folder of k8s-openapi, asked of cargo, because it may be a registry, a vendor folder or a checkout.
/// Where the sources of k8s-openapi are: in cargo's registry folder, or wherever `cargo metadata` says (vendored
/// sources). The folder comes first, for cargo answers offline only when it has every package of the lock file,
/// those of other platforms and of tests included, which a machine that has only built this never has.
fn source() -> Option<PathBuf> {
    in_registry().or_else(by_metadata)
}

fn in_registry() -> Option<PathBuf> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let lock = manifest.ancestors().find_map(|folder| fs::read_to_string(folder.join("Cargo.lock")).ok())?;
    let package = lock.split("[[package]]").find(|package| package.contains("name = \"k8s-openapi\"\n"))?;
    let version = package.split("version = \"").nth(1)?.split('"').next()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    let folders = registries.flatten().map(|registry| registry.path().join(format!("k8s-openapi-{version}")));
    folders.into_iter().find(|folder| folder.join(DEFINITIONS).is_dir())
}

fn by_metadata() -> Option<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO")?);
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    let output = cargo.current_dir(env::var_os("CARGO_MANIFEST_DIR")?).output().ok()?;
    let metadata = String::from_utf8(output.stdout).ok()?;
    let mut manifests =
        metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let manifest = manifests.find(|path| {
        let folder = Path::new(path).parent().and_then(Path::file_name).and_then(|name| name.to_str());
        folder.is_some_and(|name| name == "k8s-openapi" || name.starts_with("k8s-openapi-0"))
    })?;
    Path::new(manifest).parent().map(Path::to_owned)
}

#[derive(Default)]
struct Descriptions {
    texts: Vec<String>,
    numbers: HashMap<String, usize>,
    /// Definition and JSON field (empty for the type itself) to text.
    subjects: BTreeMap<(String, String), usize>,
}

impl Descriptions {
    fn read_folder(&mut self, folder: &Path) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                self.read_folder(&path);
            } else if let Ok(source) = fs::read_to_string(&path) {
                self.read_file(&source);
            }
        }
    }

    fn read_file(&mut self, source: &str) {
        let mut lines = source.lines();
        let Some(definition) =
            lines.next().and_then(|line| line.strip_prefix("// Generated from definition "))
        else {
            return;
        };
        let mut comment: Vec<&str> = Vec::new();
        let mut fields: Vec<(&str, String)> = Vec::new();
        let mut names: HashMap<&str, &str> = HashMap::new();
        for line in lines {
            let line = line.trim_start();
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.strip_prefix(' ').unwrap_or(text));
            } else if line.starts_with("pub struct ") || line.starts_with("pub enum ") {
                self.add(definition, "", &comment.join("\n"));
                comment.clear();
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
                fields.push((name, comment.join("\n")));
                comment.clear();
            } else if let Some((json, rust)) = line.split_once("\" => Field::Key_") {
                names.insert(rust.trim_end_matches(','), json.trim_start_matches('"'));
            } else if line.starts_with("#[cfg(feature") {
                // What follows is the same again as a JSON schema.
                break;
            }
        }
        self.add_type_meta(source);
        for (rust, text) in fields {
            let json = names.get(rust.trim_start_matches("r#")).copied().unwrap_or(rust);
            self.add(definition, json, &text);
        }
    }

    /// `apiVersion` and `kind` are no fields of the Rust types; their texts, the same for all kinds, stand in
    /// the JSON schema of each.
    fn add_type_meta(&mut self, source: &str) {
        for field in ["apiVersion", "kind"] {
            let subject = (TYPE_META.to_owned(), field.to_owned());
            let opening = format!("\"{field}\": {{\n");
            if let (false, Some((_, rest))) =
                (self.subjects.contains_key(&subject), source.split_once(&opening))
            {
                let line = rest.lines().next().unwrap_or_default().trim();
                let text = line.strip_prefix("\"description\": \"").and_then(|l| l.strip_suffix("\","));
                self.add(TYPE_META, field, text.unwrap_or_default());
            }
        }
    }

    fn add(&mut self, definition: &str, field: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let number = *self.numbers.entry(text.to_owned()).or_insert_with(|| {
            self.texts.push(text.to_owned());
            self.texts.len() - 1
        });
        self.subjects.insert((definition.to_owned(), field.to_owned()), number);
    }

    /// The texts, one a line with line breaks and backslashes escaped; an empty line; then `=definition text`
    /// lines and, under each, `field text` lines, by the text's number. Fields without a type's text stand
    /// under a definition without a number.
    fn render(&self) -> String {
        let mut out = String::new();
        for text in &self.texts {
            out.push_str(&text.replace('\\', "\\\\").replace('\n', "\\n"));
            out.push('\n');
        }
        out.push('\n');
        let mut current = "";
        for ((definition, field), number) in &self.subjects {
            if definition != current {
                out.push_str(&format!("={definition}"));
                if field.is_empty() {
                    out.push_str(&format!(" {number}"));
                }
                out.push('\n');
                current = definition;
            }
            if !field.is_empty() {
                out.push_str(&format!("{field} {number}\n"));
            }
        }
        out
    }
}
