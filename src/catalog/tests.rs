use super::*;

fn definition() -> EventDefinition {
    EventDefinition::new("order.created", "order", "created")
}

fn accept(definition: EventDefinition, request: EmitRequest) -> Result<Event> {
    Catalog::new([definition])?.accept(request)
}

#[test]
fn a_definition_that_breaks_a_rule_is_refused() {
    for bad in [
        EventDefinition::new("", "order", "created"),
        EventDefinition::new("k", "", "created"),
        EventDefinition::new("k", "order", ""),
        EventDefinition::new("k", "or.der", "created"),
        EventDefinition::new("k", "order", "cre.ated"),
        EventDefinition::new("k\0", "order", "created"),
        EventDefinition::new("k", "order\u{7f}", "created"),
        EventDefinition::new("k", "order", "created\n"),
        definition().with_schema_version("one"),
        definition().with_content_type("json"),
        definition().with_content_type("text/plain\r\nx: y"),
        definition().with_data_schema(""),
        definition().with_data_schema("https://a\tb"),
        definition().with_data_schema("schemas/order.json"),
        definition().with_data_schema("//schemas.example/order.json"),
        definition().with_data_schema("https://schemas.example/\u{fc}"),
        definition().with_description("a\x1bb"),
    ] {
        assert_eq!(Catalog::new([bad.clone()]).unwrap_err().kind(), ErrorKind::InvalidDefinition, "{bad:?}");
    }
    assert!(Catalog::new([]).is_err(), "a catalog has an event");
}

#[test]
fn a_definitions_fields_may_be_so_long_and_not_a_byte_longer() {
    type Make = fn(String) -> EventDefinition;
    let fields: [(&str, usize, Make); 7] = [
        ("key", 256, |text| EventDefinition::new(text, "order", "created")),
        ("resource", 128, |text| EventDefinition::new("k", text, "created")),
        ("event", 128, |text| EventDefinition::new("k", "order", text)),
        ("schema version", 64, |text| definition().with_schema_version(format!("1.0.0-{}", &text[6..]))),
        ("content type", 256, |text| definition().with_content_type(format!("a/{}", &text[2..]))),
        ("data schema", 2048, |text| definition().with_data_schema(format!("a:{}", &text[2..]))),
        ("description", 2048, |text| definition().with_description(text)),
    ];
    for (field, max, make) in fields {
        assert!(Catalog::new([make("x".repeat(max))]).is_ok(), "{field}");
        let error = Catalog::new([make("x".repeat(max + 1))]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")) && error.contains(&format!("at most {max}")), "{error}");
    }
}

#[test]
fn a_requests_fields_may_be_so_long_and_not_a_byte_longer() {
    type Make = fn(EmitRequest, String) -> EmitRequest;
    let fields: [(&str, usize, Make); 3] = [
        ("tenant", 256, |request, text| request.tenant(text)),
        ("subject", 1024, |request, text| request.subject(text)),
        ("partitionkey", 2048, |request, text| request.partition_key(text)),
    ];
    for (field, max, make) in fields {
        let emit = |text| accept(definition(), make(EmitRequest::new("order.created").payload("{}"), text));
        assert!(emit("x".repeat(max)).is_ok(), "{field}");
        for bad in ["x".repeat(max + 1), String::new(), "a\u{7f}".into(), "a\nb".into()] {
            let error = emit(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
    assert!("x".repeat(256).parse::<EventId>().is_ok() && "x".repeat(257).parse::<EventId>().is_err());
}

#[test]
fn a_time_is_one_that_rfc_3339_can_write() {
    for (time, is_ok) in [
        ("0000-01-01T00:00:00Z", true),
        ("9999-12-31T23:59:59.999999999Z", true),
        ("+10000-01-01T00:00:00Z", false),
        ("-0001-12-31T23:59:59Z", false),
    ] {
        let request = EmitRequest::new("order.created").payload("{}").time(time.parse().unwrap());
        assert_eq!(accept(definition(), request).is_ok(), is_ok, "{time}");
    }
}

#[test]
fn all_definitions_that_break_a_rule_are_told_each_in_its_line() {
    let bad = |key: &str| EventDefinition::new(key, "or.der", key).with_schema_version("1.0.0");
    let text = Catalog::new([bad("a"), definition(), bad("b"), definition()]).unwrap_err().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, part) in lines.iter().zip(["event `a`", "event `b`", "two events have the key", "second event"]) {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_severity_has_its_number_and_may_have_its_text() {
    let emit = |request: EmitRequest| accept(definition(), request.payload("{}"));
    let bare = || EmitRequest::new("order.created");
    assert!(emit(bare().severity(13)).is_ok() && emit(bare().severity(13).severity_text("WARN")).is_ok());
    assert_eq!(emit(bare().severity_text("WARN")).unwrap_err().kind(), ErrorKind::InvalidEvent);
}

mod typed {
    use super::*;
    use crate::event::domain::DomainEvent;

    #[derive(serde::Serialize)]
    struct Created;

    impl DomainEvent for Created {
        const KEY: &'static str = "order.created";
        const RESOURCE: &'static str = "order";
        const EVENT: &'static str = "created";
    }

    /// The same key, and another payload.
    #[derive(serde::Serialize)]
    struct Impostor(u8);

    impl DomainEvent for Impostor {
        const KEY: &'static str = "order.created";
        const RESOURCE: &'static str = "order";
        const EVENT: &'static str = "created";
    }

    fn created() -> EmitRequest {
        EmitRequest::of(&Created).unwrap()
    }

    #[test]
    fn a_definition_of_a_type_takes_only_payloads_of_that_type() {
        let accept = |request| accept(EventDefinition::of::<Created>(), request);
        assert!(accept(created()).is_ok() && accept(created().subject("s")).is_ok());
        assert!(accept(EmitRequest::new("order.created").tombstone()).is_ok());
        for other in [
            EmitRequest::of(&Impostor(1)).unwrap(),
            EmitRequest::new("order.created").payload("{}"),
            created().payload("{}"),
            created().json(&1).unwrap(),
        ] {
            let error = accept(other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPayload);
            assert!(error.to_string().contains("Created") && error.to_string().contains("emit_typed"), "{error}");
        }
    }

    #[test]
    fn a_typed_event_is_what_the_catalog_says_or_refused() {
        for (definition, kind, both) in [
            (
                EventDefinition::new("order.created", "invoice", "created"),
                ErrorKind::InvalidEvent,
                ["order", "invoice"],
            ),
            (EventDefinition::new("order.created", "order", "placed"), ErrorKind::InvalidEvent, ["created", "placed"]),
            (definition().with_schema_version("2.0.0"), ErrorKind::InvalidEvent, ["1.0.0", "2.0.0"]),
            (
                definition().with_content_type("text/plain"),
                ErrorKind::InvalidPayload,
                ["application/json", "text/plain"],
            ),
        ] {
            let error = accept(definition, created()).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(both.iter().all(|one| error.to_string().contains(&format!("`{one}`"))), "{error}");
        }
        for same in [definition(), definition().with_schema_version("v1").with_content_type("text/json")] {
            assert!(accept(same, created()).is_ok());
        }
    }
}

#[test]
fn no_two_definitions_have_one_key() {
    let other = EventDefinition::new("order.created", "order", "placed");
    let error = Catalog::new([definition(), other]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidDefinition);
    assert!(error.to_string().contains("two events have the key `order.created`"), "{error}");
}

#[test]
fn no_two_definitions_are_one_version_of_one_event_however_it_is_written() {
    let other = |version: &str| EventDefinition::new("other", "order", "created").with_schema_version(version);
    for same in ["1.0.0", "v1.0.0", "1", "v1", "1.0"] {
        let error = Catalog::new([definition(), other(same)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidDefinition, "{same}");
    }
    for different in ["2.0.0", "1.0.1", "1.1", "1.0.0-rc.1"] {
        assert!(Catalog::new([definition(), other(different)]).is_ok(), "{different}");
    }
    assert!(Catalog::new([definition(), EventDefinition::new("other", "invoice", "created")]).is_ok());
    assert!(Catalog::new([definition(), EventDefinition::new("other", "order", "placed")]).is_ok());
}

#[test]
fn an_unknown_key_fails_and_lists_the_known_ones() {
    let error = accept(definition(), EmitRequest::new("order.creatd")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownEvent);
    assert!(error.to_string().contains("order.created"));
}

#[test]
fn a_json_event_needs_a_json_payload_and_an_opaque_one_does_not() {
    let bad: [&[u8]; 6] = [b"not json", b"", b"{", b"{} {}", b"\xef\xbb\xbf{}", b"\"\xff\""];
    let good: [&[u8]; 4] = [b"{}", b" [1, 2] \n", b"null", b"{\"a\":1,\"a\":1e999}"];
    let emit = |content_type: &str, payload: &[u8]| {
        let request = EmitRequest::new("order.created").payload(payload.to_vec());
        accept(definition().with_content_type(content_type), request)
    };
    for json in ["application/json", "application/json; charset=utf-8", "application/vnd.acme+json", "TEXT/JSON"] {
        for payload in bad {
            assert_eq!(emit(json, payload).unwrap_err().kind(), ErrorKind::InvalidPayload, "{json} {payload:?}");
        }
        for payload in good {
            assert!(emit(json, payload).is_ok(), "{json} {payload:?}");
        }
    }
    for opaque in ["text/plain", "application/octet-stream", "application/jsonl"] {
        for payload in bad.into_iter().chain(good) {
            assert!(emit(opaque, payload).is_ok(), "{opaque} {payload:?}");
        }
    }
}

#[test]
fn a_failed_emit_names_its_event_id() {
    let id = EventId::new();
    let error = accept(definition(), EmitRequest::new("order.created").id(id.clone())).unwrap_err();
    assert_eq!(error.event_id(), Some(&id));
}

#[test]
fn the_record_key_is_tenant_then_subject_then_id_and_never_empty() {
    let key = |definition: EventDefinition, request: EmitRequest| {
        let event = accept(definition, request.payload("{}")).unwrap();
        let id = event.id.to_string();
        (event.into_key_and_tenant().0, id)
    };
    let bare = || EmitRequest::new("order.created");
    assert_eq!(key(definition(), bare().tenant("t").subject("s")).0, "t");
    assert_eq!(key(definition(), bare().subject("s")).0, "s");
    let (by_id, id) = key(definition(), bare());
    assert_eq!(by_id, id);
    let by_attribute = definition().with_partition_key(PartitionKey::Attribute);
    assert_eq!(key(by_attribute.clone(), bare().tenant("t").partition_key("p")).0, "p");
    assert_eq!(key(by_attribute.clone(), bare().tenant("t")).0, "t");
    assert_eq!(key(by_attribute.with_extension("partitionkey", "c"), bare().tenant("t")).0, "c");
    let custom = |text: &'static str| definition().with_partition_key(PartitionKey::custom(move |_| text.into()));
    assert_eq!(key(custom("c"), bare().tenant("t")).0, "c");
    assert_eq!(key(custom(""), bare().tenant("t")).0, "t");
    let by_subject = definition().with_partition_key(PartitionKey::Subject);
    assert_eq!(key(by_subject, bare().tenant("t").subject("s")).0, "s");
}

#[test]
fn a_custom_key_that_no_store_could_hold_is_refused() {
    let definition = definition().with_partition_key(PartitionKey::custom(|_| "a\0b".into()));
    let error = accept(definition, EmitRequest::new("order.created").payload("{}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
}

#[test]
fn a_request_may_not_change_an_attribute_that_its_definition_sets() {
    let definition = definition().with_extension("stage", "test");
    let error =
        accept(definition, EmitRequest::new("order.created").extension("stage", "live").payload("{}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
}

#[test]
fn a_system_event_has_no_tenant_and_its_own_key() {
    let event =
        accept(definition().with_system(true), EmitRequest::new("order.created").tenant("t").payload("{}")).unwrap();
    assert_eq!(event.tenant, None);
    assert_eq!(event.into_key_and_tenant().0, "system:created");
}
