//! Finds secrets in what processes wrote, in every form in which Rust writes bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// What must be nowhere: each form of each secret, and whose it is.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<String, String>);

// === impl Secrets ===

impl Secrets {
    /// A token of any kind, alone or in base64, as Secrets and WebSockets carry it; of a JSON Web
    /// Token also what could be left of it when its end or its beginning is cut off.
    pub(super) fn token(&mut self, name: &str, token: &str) {
        let token = token.trim();
        assert!(token.len() >= 16, "{name} is too short to be told from chance");
        let mut forms = vec![
            token.to_owned(),
            URL_SAFE_NO_PAD.encode(token),
            STANDARD.encode(token).trim_end_matches('=').to_owned(),
        ];
        forms.extend(token.split('.').skip(1).filter(|part| part.len() >= 16).map(str::to_owned));
        self.add(name, forms);
    }

    /// A private key: each line of its PEM, and a piece of its bytes as `Debug` of a list, as a byte
    /// string and in hexadecimal.
    pub(super) fn key(&mut self, name: &str, pem: &str) {
        let lines: Vec<&str> = pem.lines().map(str::trim).filter(|line| line.len() >= 32).collect();
        let lines: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with("--")).collect();
        let der = STANDARD.decode(lines.concat().as_bytes()).unwrap_or_default();
        // Where the private number of a key of P-256 is (RFC 5915 in RFC 5208); what stands before is
        // the same in all of them.
        let piece = der.get(40..60).unwrap_or_default();
        let list = piece.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let hex = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        let escaped = piece.escape_ascii().to_string();
        let bytes = format!("{:?}", bytes::Bytes::copy_from_slice(piece));
        let bytes = bytes.trim_start_matches("b\"").trim_end_matches('"').to_owned();
        let forms = lines.iter().map(|line| (*line).to_owned()).chain([list, hex, escaped, bytes]);
        self.add(name, forms.filter(|form| !form.is_empty()).collect());
    }

    /// Every token and key in the files of a folder and its folders, but for what processes wrote.
    pub(super) fn folder(&mut self, folder: &Path) {
        for path in files(folder).into_iter().filter(|path| !is_output(path)) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            self.text(&name, &text);
        }
    }

    /// Every token and key in a text, in base64 or not.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        for key in text.split("-----BEGIN ").skip(1) {
            if key.lines().next().is_some_and(|line| line.contains("PRIVATE KEY")) {
                self.key(name, key.split("-----END").next().unwrap_or(key));
            }
        }
        let word = |letter: char| letter.is_ascii_alphanumeric() || "-_.+/=".contains(letter);
        for found in text.split(|letter| !word(letter)) {
            if found.starts_with(JWT) && found.matches('.').count() == 2 {
                self.token(name, found);
            } else if let Ok(decoded) = STANDARD.decode(found)
                && let Ok(decoded) = String::from_utf8(decoded)
                && (decoded.starts_with(JWT) || decoded.contains("PRIVATE KEY"))
            {
                self.text(name, &decoded);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whose secrets are in `text`, each with what stands around it, and the secret cut out.
    pub(super) fn find(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let known = self.0.iter().map(|(form, name)| (form.as_str(), name.as_str()));
        for (form, name) in known.chain([(JWT, "some JSON Web Token"), (KEY, "some private key")]) {
            if let Some(at) = text.find(form) {
                let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
                let before: String = text[start..at].chars().take(300).collect();
                found.push(format!("{name}: {before}<here>"));
            }
        }
        found
    }

    fn add(&mut self, name: &str, forms: Vec<String>) {
        self.0.extend(forms.into_iter().map(|form| (form, name.to_owned())));
    }
}

/// What the processes of a folder wrote: name and text.
pub(super) fn outputs(folder: &Path) -> Vec<(String, String)> {
    let read = |path: PathBuf| {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        (path.file_name().unwrap().to_string_lossy().into_owned(), text)
    };
    files(folder).into_iter().filter(|path| is_output(path)).map(read).collect()
}

fn is_output(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// How every JSON Web Token begins: `{"` in base64url.
const JWT: &str = "eyJ";
const KEY: &str = "PRIVATE KEY";

#[test]
fn every_form_is_found_and_nothing_else() {
    let key = rcgen::KeyPair::generate().unwrap();
    let token = "eyJhbGciOiJub25lIn0.cGF5bG9hZC1vZi1hLXRva2Vu.c2lnbmF0dXJlLW9mLWl0";
    let mut secrets = Secrets::default();
    secrets.text("key", &key.serialize_pem());
    secrets.text("token", &format!("user:\n  token: {token}\n"));
    secrets.token("opaque", "an-opaque-token-of-jane");
    let in_a_secret = STANDARD.encode("eyJh.cGF5bG9hZC1vZi1hbm90aGVy.c2lnbmF0dXJlLW9mLWl0IQ");
    secrets.text("object", &format!(r#"{{"data": {{"token": "{in_a_secret}"}}}}"#));
    let names = |text: &str| {
        let found = secrets.find(text);
        found.iter().map(|one| one.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let private = &key.serialize_der()[40..60];
    let pem = key.serialize_pem();
    for (text, name) in [
        (format!("a line\nkey {private:?}"), "key"),
        (format!("{:?}", bytes::Bytes::copy_from_slice(private)), "key"),
        (format!("{:?}", pem.lines().nth(1).unwrap()), "key"),
        ("cut cGF5bG9hZC1vZi1hLXRva2Vu".to_owned(), "token"),
        ("x=c2lnbmF0dXJlLW9mLWl0".to_owned(), "token"),
        (format!("v4.channel, bearer.{}", URL_SAFE_NO_PAD.encode(token)), "token"),
        ("Bearer an-opaque-token-of-jane".to_owned(), "opaque"),
        (STANDARD.encode("an-opaque-token-of-jane"), "opaque"),
        ("cGF5bG9hZC1vZi1hbm90aGVy".to_owned(), "object"),
        ("eyJ9".to_owned(), "some JSON Web Token"),
    ] {
        assert!(names(&text).iter().any(|found| found == name), "{text}: {:?}", names(&text));
    }
    assert_eq!(names("Bearer an-opaque-token-of-john -----BEGIN CERTIFICATE-----"), [""; 0]);
}
