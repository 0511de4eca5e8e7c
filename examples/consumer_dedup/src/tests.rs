use tidings::testing::Embedded;
use tidings::{Catalog, Config, EmitRequest, Emitter, EventDefinition, EventId};

use super::*;

#[tokio::test]
async fn an_order_counts_once_however_often_its_event_arrives() {
    let embedded = Embedded::new().unwrap();
    let spendings = Spendings::open(embedded.database().to_str().unwrap()).await.unwrap();
    let catalog = Catalog::new([EventDefinition::new("order.placed", "order", "placed")]).unwrap();
    let config = Config::new("//shop", [embedded.brokers()]).unwrap();
    let producer = embedded.producer(config, catalog).await.unwrap();
    let [first, second] = [EventId::new(), EventId::new()];
    for (id, cents) in [(&first, 1_000), (&second, 200), (&first, 1_000)] {
        let payload = format!(r#"{{"customer":"c-1","total_cents":{cents}}}"#);
        producer.emit(EmitRequest::new("order.placed").tenant("c-1").id(id.clone()).payload(payload)).await.unwrap();
    }

    let mut new = Vec::new();
    for record in embedded.records("events.order.placed", 3).await.unwrap() {
        let event = wire::decode(record.headers.iter(), record.payload.as_deref()).unwrap();
        new.push(spendings.take(&event).await.unwrap());
    }

    assert_eq!(new, [true, true, false]);
    assert_eq!(spendings.of("c-1").await.unwrap(), 1_200);
}
