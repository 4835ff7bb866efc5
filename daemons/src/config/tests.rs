//! Every error of the loader, as its reader sees it, and the order of the layers.

use super::*;

fn sources(file: &std::path::Path, text: &str) -> Sources {
    std::fs::write(file, text).expect("written");
    Sources { file: Some(file.to_owned()), ..Sources::default() }
}

fn load(text: &str) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    sources(&folder.path().join("quorate.toml"), text)
        .load()
        .map_err(|errors| errors.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(load(text).expect_err("refused"), expected);
}

fn with(environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Result<Loaded, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let flags =
        flags.iter().map(|(flag, key, value)| ((*flag).into(), (*key).into(), (*value).into())).collect();
    Sources { environment, flags, ..Sources::default() }.load().map_err(|errors| errors.to_string())
}

#[test]
fn an_empty_file_leaves_the_defaults() {
    assert_eq!(load("").expect("loads").config, Config::default());
}

#[test]
fn every_key_can_be_set_in_the_file() {
    let loaded = load(
        r#"
        data = "/somewhere"
        listen = "0.0.0.0:0"
        advertise = "10.0.0.7"
        monitor = "127.0.0.1:7404"
        backend = "process"
        durability = "process"
        [functions.default]
        replication = "none"
        pods_min = 1
        pods_max = 9
        slots = 32
        policy = "kpa"
        wait = "200ms"
        step_up = 3
        step_down = 2
        changes_per_minute = 20
        threshold = 8
        keep_alive = "1m"
        [functions.mul]
        replication = { f = 2 }
        [gateway]
        access = "tokens"
        tokens = "/tokens"
        tls_cert = "web.pem"
        tls_key = "web.key"
        [tls]
        inside = "on"
        ca = "ca.crt"
        ca_key = "ca.key"
        cert = "tls.crt"
        key = "tls.key"
        [limits]
        requests_per_second = 14
        body_bytes = 4_096
        expression_bytes = 2_048
        nodes = 10
        nesting = 11
        digits = 12
        accepted = 13
        [timeouts]
        request = "1s"
        wait = "2s"
        keep = "2d"
        lease = "3s"
        operation = "250ms"
        probe_every = "1s"
        probes_missed = 5
        fault_pause = "0s"
        pod_start = "1h"
        [engines]
        queues = "sqlite"
        records = "sqlite"
        store = "sqlite"
        [aws]
        region = "eu-central-1"
        endpoint = "http://127.0.0.1:4566"
        [sqs]
        prefix = "q-"
        [dynamo]
        table = "records"
        [etcd]
        endpoints = "http://a:2379, https://b:2379/"
        prefix = "q/"
        ca = "ca.pem"
        cert = "cert.pem"
        key = "key.pem"
        user = "quorate"
        password_file = "password"
        [kubernetes]
        namespace = "quorate"
        image = "registry.example/quorate:1"
        prefix = "q-"
        spread = "soft"
        cpu = "0.5"
        memory = "64Mi"
        disk = "500M"
        "#,
    )
    .expect("loads");
    assert!(loaded.in_force().iter().all(|value| value.place != Place::Default), "{:?}", loaded.in_force());
    assert_eq!(loaded.config.functions.add.replication, Replication::None);
    assert_eq!(loaded.config.functions.mul.replication, Replication::Byzantine { f: 2 });
    assert_eq!(loaded.config.functions.mul.slots, 32);
    assert_eq!(loaded.config.functions.mul.policy, quorate_scaler::policy::Name::Kpa);
    assert_eq!(loaded.config.timeouts.operation, Duration::from_millis(250));
}

#[test]
fn what_is_shown_can_be_read_again() {
    let shown: String = Loaded::in_force(&load("").expect("loads"))
        .iter()
        .map(|value| format!("{} = {}\n", value.key, value.value))
        .collect();
    assert_eq!(load(&shown).expect("loads").config, Config::default());
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    refused(
        "[limits]\nnodez = 5\n",
        "quorate.toml:2: unknown key `limits.nodez`; did you mean `limits.nodes`?\n  2 | nodez = 5\n    | ^^^^^",
    );
    refused(
        "nodes = 5\n",
        "quorate.toml:1: unknown key `nodes`; did you mean `limits.nodes`?\n  1 | nodes = 5\n    | ^^^^^",
    );
    refused(
        "[functions.addd]\nslots = 5\n",
        "quorate.toml:1: unknown key `functions.addd`; did you mean `functions.add`?\n  1 | [functions.addd]\n    |            ^^^^",
    );
    refused("[xyz]\n", "quorate.toml:1: unknown key `xyz`\n  1 | [xyz]\n    |  ^^^");
}

#[test]
fn wrong_types_are_refused_with_what_is_right() {
    refused(
        "[timeouts]\nrequest = 10\n",
        "quorate.toml:2: `timeouts.request` is a time such as \"250ms\", \"10s\", \"5m\", \"2h\" or \"1d\", not a number; did you mean `\"10s\"`?\n  2 | request = 10\n    |           ^^",
    );
    refused(
        "listen = \"7400\"",
        "quorate.toml:1: `listen` is an address with a port, such as \"127.0.0.1:7400\", not `7400`\n  1 | listen = \"7400\"\n    |          ^^^^^^",
    );
    refused(
        "[functions.add]\nslots = 1.5",
        "quorate.toml:2: `functions.add.slots` is a whole number, not a number with a fraction\n  2 | slots = 1.5\n    |         ^^^",
    );
    refused(
        "durability = \"disc\"",
        "quorate.toml:1: `durability` is \"disk\" or \"process\", not `disc`; did you mean `disk`?\n  1 | durability = \"disc\"\n    |              ^^^^^^",
    );
    refused(
        "limits = 5",
        "quorate.toml:1: `limits` is a section: write [limits] and its keys below it, not a number\n  1 | limits = 5\n    |          ^",
    );
    refused(
        "[functions.add]\nreplication = 1",
        "quorate.toml:2: `functions.add.replication` is \"none\" or { f = 1 }, not a number; did you mean `{ f = 1 }`?\n  2 | replication = 1\n    |               ^",
    );
    refused(
        "[functions.default]\nreplication = { g = 1 }",
        "quorate.toml:2: `functions.default.replication` is \"none\" or { f = 1 }, not a table\n  2 | replication = { g = 1 }\n    |               ^^^^^^^^^",
    );
    refused(
        "data = \"\"",
        "quorate.toml:1: `data` is a folder such as \"/var/lib/quorate\", not ``\n  1 | data = \"\"\n    |        ^^",
    );
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    refused(
        "[limits]\nnodes = 0",
        "quorate.toml:2: `limits.nodes` = 0 is out of range (1 to 10000000)\n  2 | nodes = 0\n    |         ^",
    );
    refused(
        "[timeouts]\nlease = \"13h\"",
        "quorate.toml:2: `timeouts.lease` = 13h is out of range (100ms to 12h)\n  2 | lease = \"13h\"\n    |         ^^^^^",
    );
    refused(
        "[functions.add]\nreplication = { f = 0 }",
        "quorate.toml:2: `functions.add.replication.f` = 0 is out of range (1 to 33)\n  2 | replication = { f = 0 }\n    |               ^^^^^^^^^",
    );
    refused(
        "[functions.add]\npods_min = -1",
        "quorate.toml:2: `functions.add.pods_min` = -1 is out of range (0 to 1000)\n  2 | pods_min = -1\n    |            ^^",
    );
    refused(
        "[functions.sub]\npods_min = 5",
        "quorate.toml:2: `functions.sub.pods_min` = 5 is over `functions.sub.pods_max` = 4\n  2 | pods_min = 5\n    |            ^",
    );
    refused(
        "[limits]\nbody_bytes = 2048",
        "quorate.toml:2: `limits.expression_bytes` = 1048576 is over `limits.body_bytes` = 2048\n  2 | body_bytes = 2048\n    |              ^^^^",
    );
}

#[test]
fn replicas_agree_on_no_more_digits_than_an_operation_holds() {
    let with = |digits: u32, rest: &str| load(&format!("[limits]\ndigits = {digits}\n{rest}"));
    let error = with(157_811, "").expect_err("refused");
    let said = "quorate.toml:2: `limits.digits` = 157811 is over 157810: ";
    assert!(error.starts_with(said) && error.contains("262144 bytes"), "{error}");
    with(157_810, "").expect("loads");
    let plain = "[functions.default]\nreplication = \"none\"\n";
    with(1_000_000, plain).expect("nothing has to be agreed on");
    with(1_000_000, &format!("{plain}[functions.div]\nreplication = {{ f = 1 }}")).expect_err("refused");
}

#[test]
fn what_is_not_toml_is_shown_where_it_is() {
    refused(
        "listen = \n",
        "quorate.toml:1: not TOML: string values must be quoted, expected literal string\n  1 | listen = \n    |          ^",
    );
    refused(
        "listen = \"[::1]:1\"\nlisten = \"[::1]:2\"\n",
        "quorate.toml:2: not TOML: duplicate key\n  2 | listen = \"[::1]:2\"\n    | ^^^^^^",
    );
}

#[test]
fn all_errors_are_said_at_once() {
    let errors = load("lissten = 1\n[limits]\nnodes = \"many\"\n").expect_err("refused");
    assert!(errors.contains("lissten") && errors.contains("many"), "{errors}");
}

#[test]
fn a_file_that_is_named_has_to_be_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("missing.toml");
    let error = Sources { file: Some(file.clone()), ..Sources::default() }.load().expect_err("refused");
    assert!(error.to_string().starts_with(&format!("{}: can't be read: ", file.display())), "{error}");
    let absent = Sources { file_if_there: Some(file), ..Sources::default() };
    assert_eq!(absent.load().expect("loads").file, None);
}

#[test]
fn the_environment_is_over_the_file_and_flags_are_over_both() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut sources = sources(
        &folder.path().join("quorate.toml"),
        "listen = \"127.0.0.1:1\"\n[limits]\nnodes = 1\ndigits = 1\n[functions.add]\nreplication = { f = 2 }",
    );
    sources.environment = vec![
        ("QUORATE_LIMITS_NODES".into(), "2".into()),
        ("QUORATE_LIMITS_DIGITS".into(), "2".into()),
        ("QUORATE_LOG".into(), "debug".into()),
        ("QUORATE_GATEWAY_SERVICE_HOST".into(), "10.0.0.1".into()),
        ("QUORATE_GATEWAY_PORT_7400_TCP_ADDR".into(), "10.0.0.1".into()),
    ];
    sources.flags = vec![
        ("--set".into(), "limits.digits".into(), "3".into()),
        ("--none".into(), "functions.default.replication".into(), "none".into()),
    ];
    let loaded = sources.load().expect("loads");
    assert_eq!(loaded.config.listen.port(), 1);
    assert_eq!(loaded.config.limits.nodes, 2);
    assert_eq!(loaded.config.limits.digits, 3);
    assert_eq!(loaded.config.functions.add.replication, Replication::None, "a later layer's default wins");
    let digits = loaded.in_force().into_iter().find(|value| value.key == "limits.digits").expect("a key");
    assert_eq!(digits.place, Place::Flag { name: "--set".into() });
}

#[test]
fn errors_of_the_environment_and_of_flags_name_them() {
    let check = |environment: &[(&str, &str)], flags: &[(&str, &str, &str)], expected: &str| {
        assert_eq!(with(environment, flags).expect_err("refused"), expected);
    };
    check(
        &[("QUORATE_LIMIT_NODES", "5")],
        &[],
        "QUORATE_LIMIT_NODES: unknown variable QUORATE_LIMIT_NODES; did you mean `QUORATE_LIMITS_NODES`?",
    );
    check(
        &[("QUORATE_LIMITS_NODES", "five")],
        &[],
        "QUORATE_LIMITS_NODES: `limits.nodes` is a whole number, not `five`",
    );
    check(
        &[],
        &[("--listen", "listen", "here")],
        "--listen: `listen` is an address with a port, such as \"127.0.0.1:7400\", not `here`",
    );
    check(
        &[],
        &[("--set", "limit.nodes", "1")],
        "--set: unknown key `limit.nodes`; did you mean `limits.nodes`?",
    );
}

#[test]
fn replication_in_the_environment_reads_like_in_the_file() {
    for (text, expected) in [
        ("none", Replication::None),
        ("{ f = 2 }", Replication::Byzantine { f: 2 }),
        ("f=3", Replication::Byzantine { f: 3 }),
    ] {
        let loaded = with(&[("QUORATE_FUNCTIONS_DIV_REPLICATION", text)], &[]).expect("loads");
        assert_eq!(loaded.config.functions.div.replication, expected, "{text}");
    }
}

#[test]
fn a_configuration_survives_json() {
    let config = load("listen = \"[::1]:0\"\n[functions.add]\nreplication = \"none\"").expect("loads").config;
    let json = serde_json::to_string(&config).expect("serialises");
    assert_eq!(serde_json::from_str::<Config>(&json).expect("reads"), config);
}

#[test]
fn times_are_shown_in_their_largest_unit() {
    for text in ["0ms", "1ms", "1500ms", "2s", "90s", "5m", "36h", "7d"] {
        let time = parse_time(text).expect(text);
        assert_eq!(keys::show_time(time), text);
    }
    for text in ["", "5", "s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999d", "999999999999999999d"] {
        assert_eq!(parse_time(text), None, "{text}");
    }
}

#[test]
fn engines_that_are_not_built_in_are_refused_with_what_to_do() {
    for (section, key, word, is_built) in [
        ("engines", "queues", "sqs", cfg!(feature = "sqs")),
        ("engines", "records", "dynamo", cfg!(feature = "dynamo")),
        ("engines", "store", "etcd", cfg!(feature = "etcd")),
    ] {
        let loaded = load(&format!("[{section}]\n{key} = \"{word}\"\n"));
        if is_built {
            assert!(!loaded.expect("loads").config.engines.are_embedded());
        } else {
            let error = loaded.expect_err("refused");
            assert!(error.contains(&format!("without the cargo feature `{word}`")), "{error}");
            assert!(error.starts_with("quorate.toml:2: `"), "{error}");
        }
    }
}

#[test]
fn wrong_words_and_addresses_of_engines_are_refused() {
    refused(
        "[engines]\nqueues = \"sqls\"\n",
        "quorate.toml:2: `engines.queues` is \"sqlite\" or \"sqs\", not `sqls`; did you mean `sqs`?\n  \
         2 | queues = \"sqls\"\n    |          ^^^^^^",
    );
    for (text, expected) in [
        ("[aws]\nendpoint = \"localhost:4566\"", "`aws.endpoint` is an address such as"),
        ("[aws]\nregion = \"eu central\"", "`aws.region` is up to 255 printable characters"),
        ("[sqs]\nprefix = \"a.b\"", "`sqs.prefix` is up to 40 letters"),
        ("[dynamo]\ntable = \"a\"", "`dynamo.table` is 3 to 255 letters"),
        ("[etcd]\nendpoints = \"\"", "`etcd.endpoints` is addresses such as"),
        ("[etcd]\nendpoints = \"http://a:2379,http://b/x\"", "`etcd.endpoints` is addresses such as"),
        ("[etcd]\ncert = \"c.pem\"", "`etcd.cert` means nothing without `etcd.key`"),
        ("[tls]\ncert = \"c\"\nca = \"a\"", "`tls.cert` means nothing without `tls.key`"),
        ("[tls]\nkey = \"k\"", "`tls.key` means nothing without `tls.cert`"),
        ("[tls]\ncert = \"c\"\nkey = \"k\"", "`tls.cert` means nothing without `tls.ca`"),
        ("[tls]\nca_key = \"k\"", "`tls.ca_key` means nothing without `tls.ca`"),
        ("[tls]\ninside = \"of\"", "`tls.inside` is \"on\" or \"off\", not `of`; did you mean `off`?"),
        ("[gateway]\ntls_cert = \"c\"", "`gateway.tls_cert` means nothing without `gateway.tls_key`"),
        ("[gateway]\ntls_key = \"k\"", "`gateway.tls_key` means nothing without `gateway.tls_cert`"),
        ("[etcd]\npassword_file = \"p\"", "`etcd.password_file` means nothing without `etcd.user`"),
    ] {
        let error = load(text).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn pods_in_kubernetes_need_their_image_and_more_time_to_start() {
    let error = load("backend = \"kubernetes\"\n").expect_err("refused");
    assert!(error.contains("`backend` means nothing without `kubernetes.image`"), "{error}");
    assert_eq!(error.contains("without the cargo feature `kubernetes`"), !cfg!(feature = "kubernetes"));
    for (text, expected) in [
        ("backend = \"kubernets\"", "did you mean `kubernetes`?"),
        ("advertise = \"0.0.0.0\"", "`advertise` is an address without a port"),
        ("[kubernetes]\nnamespace = \"a.b\"", "`kubernetes.namespace` is up to 63 small letters"),
        ("[kubernetes]\nprefix = \"-q\"", "`kubernetes.prefix` is up to 30 small letters"),
        ("[kubernetes]\nprefix = \"\"", "`kubernetes.prefix` is up to 30 small letters"),
        ("[kubernetes]\ncpu = \"0\"", "`kubernetes.cpu` is an amount such as"),
        ("[kubernetes]\ncpu = \".5\"", "`kubernetes.cpu` is an amount such as"),
        ("[kubernetes]\nmemory = \"64MB\"", "`kubernetes.memory` is an amount such as"),
    ] {
        let error = load(text).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
    if cfg!(feature = "kubernetes") {
        let times = |text: &str| {
            let all = format!("backend = \"kubernetes\"\n[kubernetes]\nimage = \"quorate:1\"\n{text}");
            load(&all).map(|loaded| [loaded.config.timeouts.pod_start, loaded.config.timeouts.probe_every])
        };
        assert_eq!(times(""), Ok([120, 1].map(Duration::from_secs)));
        let said = "[timeouts]\npod_start = \"3s\"\nprobe_every = \"2s\"\n";
        assert_eq!(times(said), Ok([3, 2].map(Duration::from_secs)));
    }
}

#[test]
fn what_listens_everywhere_is_reached_under_the_advertised_address() {
    let local = Config::default();
    assert_eq!(local.any_port(), "127.0.0.1:0".parse().unwrap());
    let config = Config { advertise: "10.0.0.7".parse().unwrap(), ..Config::default() };
    assert_eq!(config.any_port(), "0.0.0.0:0".parse().unwrap());
    assert_eq!(config.reached_at("0.0.0.0:7400".parse().unwrap()), "10.0.0.7:7400".parse().unwrap());
    assert_eq!(config.reached_at("127.0.0.1:80".parse().unwrap()), "127.0.0.1:80".parse().unwrap());
}

#[test]
fn a_lease_in_sqs_is_longer_unless_it_is_said() {
    let lease = |text: &str| load(text).map(|loaded| loaded.config.timeouts.lease);
    let on_sqs = "[engines]\nqueues = \"sqs\"\n";
    if cfg!(feature = "sqs") {
        assert_eq!(lease(on_sqs), Ok(Duration::from_secs(10)));
        assert_eq!(lease(&format!("{on_sqs}[timeouts]\nlease = \"3s\"\n")), Ok(Duration::from_secs(3)));
    }
    assert_eq!(lease(""), Ok(Duration::from_secs(2)));
}
