use proptest::prelude::{prop_assert, prop_oneof, proptest};
use proptest::strategy::Strategy as Values;

use super::*;

const ENABLED: [(&str, &str); 3] = [
    ("STREAMING_ENABLED", "true"),
    ("STREAMING_BROKERS", "a:1, b:2,"),
    ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
];

fn fault(vars: &[(&str, &str)]) -> String {
    let error = Config::from_vars(ENABLED.into_iter().chain(vars.iter().copied())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    error.to_string()
}

/// The names and values of the reference file, `NAME=value` and `# NAME=value` alike.
fn reference() -> Vec<(String, String)> {
    let lines = include_str!("../../.env.reference").lines();
    let vars = lines.filter_map(|line| line.trim_start_matches("# ").split_once('='));
    vars.filter(|(name, _)| name.starts_with("STREAMING_")).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The names that the code reads.
fn names_in_code() -> Vec<String> {
    let mut vars = Vars::new::<&str, &str>([]);
    Config::read(&mut vars);
    vars.known.into_iter().collect()
}

#[test]
fn the_reference_file_has_every_variable_and_the_defaults() {
    let mut names: Vec<_> = reference().into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, names_in_code());
    let default = Config::from_vars::<&str, &str>([]).unwrap();
    let reference = Config::from_vars(reference().into_iter().filter(|(name, _)| {
        // These have no default: the file shows an example.
        !["STREAMING_ENABLED", "STREAMING_BROKERS", "STREAMING_CLOUDEVENTS_SOURCE", "STREAMING_EVENT_POLICIES"]
            .contains(&name.as_str())
    }))
    .unwrap();
    let resolved = |mut config: Config| {
        config.dead_letter_prefix = Some(config.dead_letter_prefix().to_owned());
        format!("{config:?}")
    };
    assert_eq!(resolved(reference), resolved(default));
}

#[test]
fn every_value_reaches_its_setting() {
    let vars = [
        ("STREAMING_CLIENT_ID", "orders-1"),
        ("STREAMING_TOPIC_NAMING", "per-application"),
        ("STREAMING_TOPIC_PREFIX", "shop"),
        ("STREAMING_HEADER_STYLE", "dash"),
        ("STREAMING_DLQ_HEADER_PREFIX", "x-dead-"),
        ("STREAMING_CLOUDEVENTS_TYPE_PREFIX", "com.example"),
        ("STREAMING_EVENT_POLICIES", "order.created.outbox=always"),
        ("STREAMING_BATCH_LINGER_MS", "7"),
        ("STREAMING_BATCH_MAX_BYTES", "2000"),
        ("STREAMING_MAX_BUFFERED_RECORDS", "11"),
        ("STREAMING_MAX_RECORD_BYTES", "5000"),
        ("STREAMING_COMPRESSION", "ZSTD"),
        ("STREAMING_RECORD_RETRIES", "3"),
        ("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "12"),
        ("STREAMING_DIRECT_TIMEOUT_MS", "900"),
        ("STREAMING_EMIT_TIMEOUT_MS", "4000"),
        ("STREAMING_MAX_IN_FLIGHT_BYTES", "2000000"),
        ("STREAMING_CLOSE_TIMEOUT_S", "13"),
        ("STREAMING_CB_FAILURE_RATIO", "0.25"),
        ("STREAMING_CB_MIN_REQUESTS", "21"),
        ("STREAMING_CB_TIMEOUT_S", "14"),
        ("STREAMING_TENANT_RATE_LIMIT", "100/500"),
        ("STREAMING_REQUIRED_ACKS", "all"),
    ];
    let config = Config::from_vars(ENABLED.into_iter().chain(vars)).unwrap();
    assert_eq!(config.client.brokers, ["a:1", "b:2"]);
    assert_eq!(config.source().unwrap().as_str(), "//shop/orders");
    assert_eq!(config.client.client_id, "orders-1");
    let naming = Naming::per_application("shop").with_type_prefix("com.example");
    assert_eq!(format!("{:?}", config.naming), format!("{naming:?}"));
    assert_eq!(config.header_style, HeaderStyle::Dash);
    assert_eq!(config.dead_letter_prefix(), "x-dead-");
    assert_eq!(config.policies, "order.created.outbox=always".parse().unwrap());
    assert_eq!(config.client.linger, Duration::from_millis(7));
    assert_eq!(
        (config.client.batch_max_bytes, config.client.max_buffered_records, config.max_record_bytes),
        (2000, 11, 5000)
    );
    assert_eq!((config.client.compression, config.client.record_retries), (Compression::Zstd, 3));
    assert_eq!(config.delivery_timeout, Duration::from_secs(12));
    assert_eq!(config.direct_timeout, Duration::from_millis(900));
    assert_eq!((config.emit_timeout, config.max_in_flight_bytes), (Duration::from_secs(4), 2_000_000));
    assert_eq!(config.close_timeout, Duration::from_secs(13));
    let breaker = BreakerConfig { failure_ratio: 0.25, min_requests: 21, open_time: Duration::from_secs(14) };
    assert_eq!(config.breaker, breaker);
    assert_eq!(config.tenant_rate_limit, Some("100/500".parse().unwrap()));
}

#[test]
fn one_variable_makes_everything_as_lib_streaming_has_it() {
    let (v0_2, v3) = (Naming::lib_streaming_v0_2(), Naming::lib_streaming_v3());
    let config = || Config::new("tx-service", ["a:1"]).unwrap();
    let from = |name, value| Config::from_vars(ENABLED.into_iter().chain([(name, value)])).unwrap();
    let (dash, binding) = ((HeaderStyle::Dash, "x-lerian-dlq-"), (HeaderStyle::Binding, "x-tidings-dlq-"));
    for (config, naming, headers) in [
        (from("STREAMING_COMPATIBILITY", "none"), &Naming::default(), binding),
        (from("STREAMING_COMPATIBILITY", "lib-streaming-v0.2"), &v0_2, dash),
        (from("STREAMING_COMPATIBILITY", "lib-streaming-v3"), &v3, dash),
        (config().with_lib_streaming_v0_2(), &v0_2, dash),
        (config().with_lib_streaming_v3(), &v3, dash),
        (config().with_header_style(HeaderStyle::Dash), &Naming::default(), dash),
        (config().with_lib_streaming_v0_2().with_header_style(HeaderStyle::Binding), &v0_2, binding),
        (config().with_dead_letter_prefix("x-dead-").unwrap().with_lib_streaming_v3(), &v3, dash),
        // Each part alone.
        (from("STREAMING_TOPIC_NAMING", "lib-streaming-v3"), &v3, binding),
        (from("STREAMING_HEADER_STYLE", "dash"), &Naming::default(), dash),
    ] {
        assert_eq!(format!("{:?}", config.naming), format!("{naming:?}"));
        assert_eq!((config.header_style, config.dead_letter_prefix()), headers);
    }
}

#[test]
fn a_dead_letter_prefix_that_is_set_stays_whatever_the_style() {
    let config = || Config::new("tx-service", ["a:1"]).unwrap();
    let set = config().with_dead_letter_prefix("x-dead-").unwrap().with_header_style(HeaderStyle::Dash);
    assert_eq!(set.dead_letter_prefix(), "x-dead-");
    for bad in ["", "x dead", "x\n", &"x".repeat(65)] {
        assert_eq!(config().with_dead_letter_prefix(bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
    }
}

#[test]
fn brokers_are_hosts_with_ports_apart_by_commas() {
    let brokers = |text| Config::from_vars(ENABLED.into_iter().chain([("STREAMING_BROKERS", text)]));
    for good in ["kafka-1.shop.example:9092", "10.0.0.1:1,kafka_2:65535", "[::1]:9092"] {
        assert!(brokers(good).is_ok(), "{good}");
    }
    for bad in [
        "kafka",
        "kafka:",
        ":9092",
        "kafka:http",
        "kafka:0",
        "kafka:65536",
        "a:1;b:2",
        "a:1 b:2",
        "ssl://a:1",
        "::1:9",
        "[::1",
    ] {
        let text = brokers(bad).unwrap_err().to_string();
        assert!(text.contains(&format!("STREAMING_BROKERS=`{bad}`")) && !text.contains("is missing"), "{text}");
        assert!(Config::new("//shop", [bad]).is_err(), "{bad}");
    }
    let text = brokers("shop:pl4nted@a:1").unwrap_err().to_string();
    assert!(text.contains("STREAMING_BROKERS: expected") && !text.contains("pl4nted"), "{text}");
    assert!(brokers(" , ").unwrap_err().to_string().contains("STREAMING_BROKERS is missing"));
}

#[test]
fn a_topic_prefix_that_no_topic_may_have_is_a_fault_of_its_variable() {
    for bad in ["shop/orders", ".shop", "caf\u{e9}", "a b"] {
        assert!(fault(&[("STREAMING_TOPIC_PREFIX", bad)]).contains("STREAMING_TOPIC_PREFIX="), "{bad}");
    }
}

#[test]
fn every_fault_has_a_line_of_its_own() {
    let text = fault(&[("STREAMING_COMPRESSION", "zip"), ("STREAMING_BATCH_LINGER_MS", "-1")]);
    assert_eq!(text.lines().filter(|line| line.starts_with("STREAMING_")).count(), 2, "{text}");
}

#[test]
fn what_compatibility_settles_may_not_be_set_beside_it() {
    assert!(fault(&[("STREAMING_COMPATIBILITY", "lib-streaming")]).contains("STREAMING_COMPATIBILITY=`lib-streaming`"));
    for (name, value) in [
        ("STREAMING_TOPIC_NAMING", "per-event"),
        ("STREAMING_TOPIC_PREFIX", "shop"),
        ("STREAMING_CLOUDEVENTS_TYPE_PREFIX", "shop"),
        ("STREAMING_HEADER_STYLE", "binding"),
        ("STREAMING_DLQ_HEADER_PREFIX", "x-dead-"),
    ] {
        let both = |compatibility| [("STREAMING_COMPATIBILITY", compatibility), (name, value)];
        assert!(fault(&both("lib-streaming-v3")).contains(&format!("settles what {name} does")));
        assert!(Config::from_vars(ENABLED.into_iter().chain(both("none"))).is_ok());
    }
}

#[test]
fn all_faults_are_told_at_once_each_with_its_variable_and_value() {
    let text = fault(&[
        ("STREAMING_COMPRESSION", "zip"),
        ("STREAMING_BATCH_LINGER_MS", "-1"),
        ("STREAMING_REQUIRED_ACKS", "leader"),
    ]);
    for part in ["STREAMING_COMPRESSION=`zip`", "STREAMING_BATCH_LINGER_MS=`-1`", "STREAMING_REQUIRED_ACKS=`leader`"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_has_no_effect_is_told_and_nothing_else() {
    let warnings = |vars: &[(&str, &str)]| {
        Config::from_vars(ENABLED.into_iter().chain(vars.iter().copied())).unwrap().warnings().to_vec()
    };
    for name in ["STREAMING_BROKRES", "STREAMING_EVENT_TOGGLES", "STREAMING_SCHEMA_REGISTRY_URL"] {
        let told = warnings(&[(name, "pl4nted")]);
        assert!(told.len() == 1 && told[0].starts_with(name) && !told[0].contains("pl4nted"), "{told:?}");
    }
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let told = warnings(&[("STREAMING_TLS_CA_CERT", PEM)]);
    assert!(told.len() == 1 && told[0].starts_with("STREAMING_TLS_CA_CERT has no effect"), "{told:?}");
    let told = warnings(&[("STREAMING_TLS_CLIENT_CERT", PEM), ("STREAMING_TLS_CLIENT_KEY", PEM)]);
    assert_eq!(told.len(), 2, "{told:?}");
    for naming in ["lib-streaming-v0.2", "lib-streaming-v3"] {
        let told = warnings(&[("STREAMING_TOPIC_NAMING", naming), ("STREAMING_TOPIC_PREFIX", "shop")]);
        assert!(told.len() == 1 && told[0].starts_with("STREAMING_TOPIC_PREFIX has no effect"), "{told:?}");
    }
    assert_eq!(warnings(&[("STREAMING_CONSUMER_GROUP", "shop")]), [""; 0]);
    let all = reference().into_iter().filter(|(name, _)| name != "STREAMING_EVENT_POLICIES");
    assert_eq!(Config::from_vars(all).unwrap().warnings(), [""; 0]);
}

#[test]
fn emits_have_some_room_whatever_is_set_in_code() {
    let config = Config::new("//shop/orders", ["localhost:9092"]).unwrap().with_max_in_flight_bytes(0);
    assert_eq!(config.max_in_flight_bytes, 1_024 * 1_024);
}

#[test]
fn times_are_as_long_as_they_may_be_whatever_is_set_in_code() {
    for (set, kept) in [(Duration::ZERO, SHORTEST_TIMEOUT), (Duration::MAX, LONGEST_TIMEOUT)] {
        let config = Config::new("//shop/orders", ["kafka-1:9092"]).unwrap();
        let config = config.with_direct_timeout(set).with_emit_timeout(set);
        assert_eq!([config.direct_timeout, config.emit_timeout], [kept; 2]);
    }
}

#[test]
fn zero_is_the_default_of_the_breakers_settings() {
    let zeros =
        [("STREAMING_CB_FAILURE_RATIO", "0"), ("STREAMING_CB_MIN_REQUESTS", "0"), ("STREAMING_CB_TIMEOUT_S", "0")];
    assert_eq!(Config::from_vars(zeros).unwrap().breaker, BreakerConfig::default());
}

#[test]
fn a_property_that_would_break_a_promise_is_a_fault_of_its_variable() {
    let text = fault(&[("STREAMING_KAFKA_PROPERTIES", "acks=1;client.rack=a;partitioner=random")]);
    assert_eq!(text.matches("STREAMING_KAFKA_PROPERTIES").count(), 2, "{text}");
}

#[test]
fn enabled_without_brokers_or_source_is_an_error_and_disabled_is_not() {
    let error = Config::from_vars([("STREAMING_ENABLED", "true")]).unwrap_err().to_string();
    assert!(
        error.contains("STREAMING_BROKERS is missing") && error.contains("STREAMING_CLOUDEVENTS_SOURCE is missing"),
        "{error}"
    );
    assert!(!Config::from_vars([("STREAMING_ENABLED", "false")]).unwrap().is_enabled());
    assert!(!Config::from_vars::<&str, &str>([]).unwrap().is_enabled());
}

#[test]
fn an_empty_variable_and_other_peoples_variables_count_as_not_set() {
    let config = Config::from_vars(ENABLED.into_iter().chain([("STREAMING_CLIENT_ID", ""), ("HOME", "/")])).unwrap();
    assert_eq!(config.client.client_id, "tidings");
}

#[test]
fn policies_that_cannot_be_read_name_their_variable() {
    assert!(
        fault(&[("STREAMING_EVENT_POLICIES", "nonsense")])
            .contains("STREAMING_EVENT_POLICIES: policy entry `nonsense`")
    );
}

/// Values that are near to being right, whatever the variable, and others.
fn value() -> impl Values<Value = String> {
    prop_oneof![
        ".{0,40}",
        "-?[0-9]{1,20}",
        "[01]?\\.[0-9]{0,3}",
        "(true|false|yes|no|1|0|none|all|leader|-1)",
        "(gzip|snappy|lz4|zstd|ZSTD|binding|dash|per-event|per-application|lib-streaming-v(0\\.2|3))",
        "(PLAIN|SCRAM-SHA-(256|512)|OAUTHBEARER|plain)",
        "[a-z]{1,8}(:[0-9]{0,6})?(,[a-z]{1,4}:[0-9]{1,5}){0,2}",
        "[a-z.]{1,8}\\.(enabled|direct|outbox|dlq)=(true|skip|always|never|x)[,;]?",
        "(acks|client\\.rack|socket\\.timeout\\.ms|debug)=[a-z0-9]{0,6};?",
        "-----BEGIN [A-Z ]{1,8}-----[a-zA-Z0-9+/=\n:-]{0,24}(-----END [A-Z ]{1,8}-----)?",
        "[a-zA-Z0-9+/]{0,24}={0,2}",
    ]
}

/// Each line of an error's text behind its first; each has the name of a variable in it.
fn faults_of(error: &Error) -> Vec<String> {
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    error.to_string().lines().skip(1).map(str::to_owned).collect()
}

proptest! {
    #[test]
    fn whatever_a_variable_is_set_to_is_read_or_a_fault_that_names_it(values in proptest::collection::vec(value(), 64)) {
        let names = names_in_code();
        prop_assert!(names.len() <= values.len());
        for (name, value) in names.iter().zip(values) {
            let vars = ENABLED.into_iter().chain([(&**name, &*value)]);
            if let Err(error) = Config::from_vars(vars) {
                let faults = faults_of(&error);
                prop_assert!(!faults.is_empty() && faults.iter().any(|fault| fault.contains(name)), "{}: {}", name, error);
            }
        }
    }

    #[test]
    fn whatever_all_variables_are_set_to_every_fault_names_its_variable_and_no_secret(
        values in proptest::collection::vec(proptest::option::of(value()), 64),
        secret in "[a-z]{0,6}(=|;|@)?",
    ) {
        const SECRETS: [&str; 4] = [
            "STREAMING_SASL_PASSWORD", "STREAMING_TLS_CLIENT_KEY", "STREAMING_TLS_CLIENT_CERT", "STREAMING_KAFKA_PROPERTIES",
        ];
        let names = names_in_code();
        let mut vars: Vec<_> =
            names.iter().zip(values).filter_map(|(name, value)| Some((name.clone(), value?.replace('\n', " ")))).collect();
        for (_, value) in vars.iter_mut().filter(|(name, _)| SECRETS.contains(&&**name)) {
            value.push_str(&format!("{secret}pl4nted"));
        }
        match Config::from_vars(vars) {
            Ok(config) => {
                let shown = format!("{config:?}");
                prop_assert!(!shown.contains("pl4nted"));
            }
            Err(error) => {
                let shown = format!("{error:?}");
                prop_assert!(!shown.contains("pl4nted"), "{}", shown);
                for fault in faults_of(&error) {
                    prop_assert!(names.iter().any(|name| fault.starts_with(&**name)), "{}", fault);
                }
            }
        }
    }
}
