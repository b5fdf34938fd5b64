use super::*;

fn one(text: &str) -> Result<Exposed, ListError> {
    Exposed::parse([("", text)])
}

fn finds(exposed: &Exposed, cluster: &str, service: &str) -> Option<usize> {
    let cluster = ClusterName::parse(cluster).unwrap();
    exposed.find(&cluster, &service.parse().unwrap()).map(|(number, _)| number)
}

const WEB: &str = "https:shop/web:443";

/// U41.
#[test]
fn keys_are_merged_in_their_order() {
    let web = "- {namespace: shop, service: web}";
    let api = "- namespace: shop\n  service: api\n- namespace: shop\n  service: web\n";
    let single = Exposed::parse([("team-a", web)]).unwrap();
    assert_eq!((single.len(), finds(&single, "c1", WEB)), (1, Some(1)));
    let many = Exposed::parse([("team-a", api), ("team-b", web)]).unwrap();
    assert_eq!((many.len(), finds(&many, "c1", WEB)), (3, Some(2)));
    assert_eq!(finds(&many, "c1", "https:shop/api:443"), Some(1));
    assert_eq!(Exposed::parse([]).unwrap().len(), 0);
    for empty in ["", "\n", "# nothing yet\n", "[]", "null"] {
        let list = Exposed::parse([("a", empty), ("b", web)]).unwrap();
        assert_eq!(list.len(), 1, "{empty:?}");
    }
}

/// U42 and U43.
#[test]
fn what_is_wrong_is_said_with_its_key() {
    let good = "- {namespace: shop, service: web}\n";
    for (entry, why) in [
        ("- {service: web}", "missing field `namespace`"),
        ("- {namespace: shop}", "missing field `service`"),
        ("- {namespace: '', service: web}", "entry 1: namespace is empty"),
        ("- {namespace: shop, service: ''}", "entry 1: service is empty"),
        ("- {namespace: shop, service: web, port: ''}", "entry 1: port is empty"),
        ("- {namespace: shop, service: web, protocol: ''}", "entry 1: protocol is empty"),
        ("- {namespace: shop, service: web, port: -1}", "port"),
        ("- {namespace: shop, service: web, port: [1]}", "port"),
        ("- {namespace: shop, service: web, clusters: []}", "clusters is empty"),
        ("- {namespace: shop, service: web, clusters: ['a*b']}", "\"a*b\" is neither"),
        ("- {namespace: shop, service: web, clusters: [C1]}", "\"C1\" is neither"),
        ("- {namespace: shop, service: web, clusters: ['']}", "\"\" is neither"),
    ] {
        let error = Exposed::parse([("good", good), ("bad", entry)]).unwrap_err().to_string();
        assert!(error.starts_with("key bad: ") && error.contains(why), "{entry}: {error}");
        assert!(!one(entry).unwrap_err().to_string().contains("key"), "a file has none");
    }
}

/// U44.
#[test]
fn a_number_is_the_same_port_as_its_text() {
    let of = |port: &str| one(&format!("- {{namespace: a, service: b, port: {port}}}")).unwrap();
    assert_eq!(of("8080"), of("\"8080\""));
    assert_eq!(finds(&of("8080"), "c1", "http:a/b:8080"), Some(1));
    assert_eq!(finds(&of("metrics"), "c1", "http:a/b:metrics"), Some(1));
    assert_eq!(finds(&of("metrics"), "c1", "http:a/b:8080"), None);
    assert_eq!(of("null"), one("- {namespace: a, service: b}").unwrap());
}

/// U45.
#[test]
fn nothing_unknown_or_broken_is_taken() {
    let good = "- {namespace: shop, service: web, port: 443, protocol: https}";
    assert!(one(good).is_ok());
    for bad in [
        "- {namespace: shop, service: web, prot: https}",
        "- {namespace: shop, service: web, Port: 443}",
        "- {namespace: shop, namespace: shop, service: web}",
        "- {namespace: shop, service: web, port: 443, port: 80}",
        "- {namespace: shop, service: web",
        "- [shop, web",
        "{namespace: shop, service: web}",
        "shop/web",
        "- shop/web",
        "- {namespace: shop, service: web, passToken: maybe}",
    ] {
        assert!(matches!(one(bad), Err(ListError::Shape { .. })), "{bad}");
        // One key spoils the whole update.
        assert!(Exposed::parse([("a", bad), ("b", good)]).is_err(), "{bad}");
    }
}

/// U46.
#[test]
fn a_name_matches_exactly_and_what_is_left_out_matches_all() {
    let exact = one("- {namespace: shop, service: web, port: 443, protocol: https}").unwrap();
    assert_eq!(finds(&exact, "c1", WEB), Some(1));
    for other in [
        "https:shop2/web:443",
        "https:shop/web2:443",
        "https:shop/web:8443",
        "https:shop/web:https",
        "http:shop/web:443",
    ] {
        assert_eq!(finds(&exact, "c1", other), None, "{other}");
    }
    let port = one("- {namespace: shop, service: web, protocol: http}").unwrap();
    assert_eq!(finds(&port, "c1", "http:shop/web:1"), Some(1));
    assert_eq!(finds(&port, "c1", "http:shop/web:metrics"), Some(1));
    assert_eq!(finds(&port, "c1", WEB), None);
    let protocol = one("- {namespace: shop, service: web, port: 443}").unwrap();
    assert_eq!(finds(&protocol, "c1", WEB), Some(1));
    assert_eq!(finds(&protocol, "c1", "http:shop/web:443"), Some(1));
    // Upstream compares case by case, too: these never match.
    let upper = one("- {namespace: Shop, service: web}\n- {namespace: shop, service: WEB}\n\
                     - {namespace: shop, service: web, protocol: HTTPS}");
    assert_eq!(finds(&upper.unwrap(), "c1", WEB), None);
}

/// U47.
#[test]
fn an_empty_list_denies_and_any_entry_may_match() {
    assert_eq!(finds(&Exposed::default(), "c1", WEB), None);
    let list = one("- {namespace: a, service: b}\n- {namespace: shop, service: web}").unwrap();
    assert_eq!(finds(&list, "c1", WEB), Some(2));
    assert_eq!(finds(&list, "c1", "http:a/b:80"), Some(1));
}

#[test]
fn an_entry_may_be_of_some_clusters_and_the_first_that_matches_decides() {
    let list = one("- {namespace: shop, service: web, clusters: [c1, edge-*], passToken: true}\n\
                    - {namespace: shop, service: web}\n\
                    - {namespace: shop, service: web, passToken: true}")
    .unwrap();
    for (cluster, number) in [("c1", 1), ("edge-7", 1), ("c11", 2), ("edge", 2)] {
        assert_eq!(finds(&list, cluster, WEB), Some(number), "{cluster}");
        let cluster = ClusterName::parse(cluster).unwrap();
        let (_, entry) = list.find(&cluster, &WEB.parse().unwrap()).unwrap();
        assert_eq!(entry.pass_token, number == 1);
    }
    let everywhere = one("- {namespace: shop, service: web, clusters: ['*']}").unwrap();
    assert_eq!(finds(&everywhere, "c9", WEB), Some(1));
}
