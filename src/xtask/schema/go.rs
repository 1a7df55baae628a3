//! A reader for the part of Go that Kubernetes' API types are written in: gofmt-ed type declarations with struct tags,
//! marker comments and string constants.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use regex::Regex;

/// The declarations of one package.
#[derive(Default)]
pub struct Package {
    pub types: BTreeMap<String, Decl>,
    /// Typed string constants: type name, constant name, value.
    pub constants: Vec<(String, String, String)>,
    /// Message names and fields (`number`, name) of generated.proto.
    pub messages: BTreeMap<String, Vec<(u32, String)>>,
}

pub struct Decl {
    pub body: Body,
    /// Marker comments (`+enum`, `+mapType=atomic` …) without the plus sign.
    pub markers: Vec<String>,
    /// Import aliases of the file.
    pub imports: BTreeMap<String, String>,
}

pub enum Body {
    Struct(Vec<Member>),
    /// A type expression: `string`, `[]string`, `map[A]B`, `other.Type`.
    Named(String),
}

pub struct Member {
    /// Go's name; of an embedded member, its type's.
    pub name: String,
    /// Go's type expression.
    pub ty: String,
    pub embedded: bool,
    pub tags: BTreeMap<String, String>,
    pub markers: Vec<String>,
}

impl Package {
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let mut package = Self::default();
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .with_context(|| format!("list {}", dir.display()))?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        for path in files {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let skip =
                name.ends_with("_test.go") || name.starts_with("zz_generated") || name.starts_with("generated.pb");
            if name.ends_with(".go") && !skip && !name.contains("swagger_doc") {
                let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                package.read_file(&text)?;
            }
        }
        let proto = dir.join("generated.proto");
        if proto.exists() {
            package
                .read_proto(&std::fs::read_to_string(&proto).with_context(|| format!("read {}", proto.display()))?)?;
        }
        Ok(package)
    }

    fn read_file(&mut self, text: &str) -> anyhow::Result<()> {
        let start = Regex::new(r"^type (\w+) (?:= )?(.+)$")?;
        let constant = Regex::new(r#"^\s+(\w+)\s+(\w+)\s+=\s+"(.*)"$"#)?;
        let imports = imports(text)?;
        let mut markers = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(comment) = line.trim_start().strip_prefix("//") {
                if let Some(marker) = comment.trim().strip_prefix('+') {
                    markers.push(marker.to_owned());
                }
                continue;
            }
            if let Some(found) = start.captures(line) {
                let body = match &found[2] {
                    "struct {" => Body::Struct(members(&mut lines)?),
                    "struct{}" => Body::Struct(Vec::new()),
                    other => Body::Named(other.split(" //").next().unwrap_or_default().trim().to_owned()),
                };
                let decl = Decl { body, markers: std::mem::take(&mut markers), imports: imports.clone() };
                self.types.insert(found[1].to_owned(), decl);
            } else if let Some(found) = constant.captures(line) {
                self.constants.push((found[2].to_owned(), found[1].to_owned(), found[3].to_owned()));
            }
            // A blank line between comment and declaration does not detach markers: upstream writes
            // `// +genclient`, an empty line and then the documentation.
            if !line.trim().is_empty() {
                markers.clear();
            }
        }
        Ok(())
    }

    fn read_proto(&mut self, text: &str) -> anyhow::Result<()> {
        let message = Regex::new(r"^message (\w+) \{$")?;
        let field = Regex::new(r"^  (?:optional |repeated |map<).* (\w+) = (\d+);$")?;
        let mut current = None;
        for line in text.lines() {
            if let Some(found) = message.captures(line) {
                let name = found[1].to_owned();
                self.messages.insert(name.clone(), Vec::new());
                current = Some(name);
            } else if let (Some(found), Some(name)) = (field.captures(line), &current) {
                let number = found[2].parse().with_context(|| line.to_owned())?;
                self.messages.entry(name.clone()).or_default().push((number, found[1].to_owned()));
            }
        }
        Ok(())
    }
}

fn imports(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let import = Regex::new(r#"^(?:import)?\s+(?:(\w+)\s+)?"([^"]+)"$"#)?;
    Ok(text
        .lines()
        .take_while(|line| !line.starts_with("type "))
        .filter_map(|line| import.captures(line))
        .map(|found| {
            let path = found[2].to_owned();
            let last = path.rsplit('/').next().unwrap_or_default().to_owned();
            (found.get(1).map_or(last, |alias| alias.as_str().to_owned()), path)
        })
        .collect())
}

fn members<'a>(lines: &mut impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<Member>> {
    let named = Regex::new(r"^\t(\w+)\s+(\S+)\s*(?:`(.*)`)?\s*(?://.*)?$")?;
    let embedded = Regex::new(r"^\t(\*?[\w.]+)\s*(?:`(.*)`)?\s*(?://.*)?$")?;
    let mut members = Vec::new();
    let mut markers = Vec::new();
    for line in lines {
        if line == "}" {
            break;
        }
        if let Some(comment) = line.trim_start().strip_prefix("//") {
            if let Some(marker) = comment.trim().strip_prefix('+') {
                markers.push(marker.to_owned());
            }
            continue;
        }
        let found = match (embedded.captures(line), named.captures(line)) {
            (Some(found), _) => Some((true, found[1].to_owned(), found[1].to_owned(), found.get(2))),
            (None, Some(found)) => Some((false, found[1].to_owned(), found[2].to_owned(), found.get(3))),
            (None, None) => None,
        };
        if let Some((embedded, name, ty, tag)) = found {
            let tags = tag.map(|tag| tags(tag.as_str())).transpose()?.unwrap_or_default();
            members.push(Member { name, ty, embedded, tags, markers: std::mem::take(&mut markers) });
        }
    }
    Ok(members)
}

fn tags(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let tag = Regex::new(r#"(\w+):"([^"]*)""#)?;
    Ok(tag.captures_iter(text).map(|found| (found[1].to_owned(), found[2].to_owned())).collect())
}
