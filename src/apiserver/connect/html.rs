//! Links in proxied pages, brought under the proxy's URL (apimachinery `util/proxy/transport.go`).

/// Attributes that hold URLs, by element (`atomsToAttrs`).
const LINKS: [(&str, &[&str]); 28] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
    ("track", &["src"]),
    ("image", &["href"]),
    ("menuitem", &["icon"]),
];

/// How URLs change.
pub struct Rewriter {
    /// Path of the proxy, without a slash at its end.
    pub prefix: String,
    /// Host and port that the page came from.
    pub target: String,
    /// Host that the client asked.
    pub host: String,
}

impl Rewriter {
    /// `Transport.rewriteURL`: absolute paths, and URLs of the target or of this server, get the prefix.
    pub fn rewrite(&self, url: &str) -> String {
        let (host, rest) = split_host(url);
        let foreign = host.is_some_and(|h| h != self.target && h != self.host);
        if foreign || !rest.starts_with('/') {
            return url.to_owned();
        }
        if rest.starts_with(&self.prefix) {
            return rest.to_owned();
        }
        format!("{}{rest}", self.prefix)
    }
}

/// The host of an absolute URL, and what follows it.
fn split_host(url: &str) -> (Option<&str>, &str) {
    let after = match url.split_once("://") {
        Some((scheme, after)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => after,
        _ => match url.strip_prefix("//") {
            Some(after) => after,
            None => return (None, url),
        },
    };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    (Some(&after[..end]), &after[end..])
}

/// Rewrites the URLs of a page; everything else stays byte for byte.
pub fn rewrite_links(page: &[u8], rewrite: impl Fn(&str) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(open) = rest.iter().position(|b| *b == b'<') {
        out.extend_from_slice(&rest[..open]);
        rest = &rest[open..];
        if let Some(comment) = rest.strip_prefix(b"<!--") {
            let end = comment.windows(3).position(|w| w == b"-->").map_or(rest.len(), |at| at + 7);
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let end = tag_end(rest);
        rewrite_tag(&rest[..end], &rewrite, &mut out);
        rest = &rest[end..];
    }
    out.extend_from_slice(rest);
    out
}

/// Just after the `>` that closes the tag at the beginning; quotes may hold others.
fn tag_end(tag: &[u8]) -> usize {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(q), b) if q == *b => quote = None,
            (None, b'>') => return at + 1,
            _ => {}
        }
    }
    tag.len()
}

fn rewrite_tag(tag: &[u8], rewrite: &impl Fn(&str) -> String, out: &mut Vec<u8>) {
    let text = match std::str::from_utf8(tag) {
        Ok(text) => text,
        Err(_) => return out.extend_from_slice(tag),
    };
    let name_end = text[1..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(text.len(), |at| at + 1);
    let name = text[1..name_end].to_ascii_lowercase();
    let Some((_, attributes)) = LINKS.iter().find(|(n, _)| *n == name) else {
        return out.extend_from_slice(tag);
    };
    out.extend_from_slice(&text.as_bytes()[..name_end]);
    let mut rest = &text[name_end..];
    while let Some(equals) = rest.find('=') {
        let (before, after) = rest.split_at(equals + 1);
        out.extend_from_slice(before.as_bytes());
        let key = before[..equals].trim_end().rsplit(|c: char| c.is_whitespace()).next().unwrap_or_default();
        let lead = after.len() - after.trim_start().len();
        out.extend_from_slice(&after.as_bytes()[..lead]);
        let value = &after[lead..];
        let (quote, value) = match value.chars().next() {
            Some(q @ ('"' | '\'')) => (q.to_string(), &value[1..]),
            _ => (String::new(), value),
        };
        let end = if quote.is_empty() {
            value.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(value.len())
        } else {
            value.find(&quote).unwrap_or(value.len())
        };
        out.extend_from_slice(quote.as_bytes());
        let is_link = attributes.contains(&key.to_ascii_lowercase().as_str());
        let url = &value[..end];
        out.extend_from_slice(if is_link { rewrite(url) } else { url.to_owned() }.as_bytes());
        let closed = value[end..].starts_with(&quote) && !quote.is_empty();
        if closed {
            out.extend_from_slice(quote.as_bytes());
        }
        rest = &value[end + if closed { quote.len() } else { 0 }..];
    }
    out.extend_from_slice(rest.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Rewriter {
        Rewriter { prefix: "/api/v1/p/proxy".into(), target: "10.0.0.1:80".into(), host: "server:6443".into() }
    }

    #[test]
    fn links_of_the_target_come_under_the_prefix() {
        let check = |page: &str, want: &str| {
            let got = rewrite_links(page.as_bytes(), |url| rewriter().rewrite(url));
            assert_eq!(String::from_utf8(got).unwrap(), want);
        };
        check("<a href=\"/rewriteme\">test</a>", "<a href=\"/api/v1/p/proxy/rewriteme\">test</a>");
        check("<IMG alt='a>b' src=/x >", "<IMG alt='a>b' src=/api/v1/p/proxy/x >");
        check("<a href=\"http://10.0.0.1:80/y\">", "<a href=\"/api/v1/p/proxy/y\">");
        check("<a href=\"http://other/y\">", "<a href=\"http://other/y\">");
        check(
            "<a href=\"relative\"><!-- <a href=\"/c\"> --><p title=\"/t\">",
            "<a href=\"relative\"><!-- <a href=\"/c\"> --><p title=\"/t\">",
        );
        check("<a href=\"/api/v1/p/proxy/z\">", "<a href=\"/api/v1/p/proxy/z\">");
    }
}
