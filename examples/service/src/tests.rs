//! What the service does, without Kafka and PostgreSQL: with a mock of the emitter, and with a producer on a broker in the process.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tidings::testing::{Answer, Embedded, MockEmitter};
use tidings::{Config, Emitter, ErrorKind};
use tower::ServiceExt;

use crate::database::{self, Database};
use crate::events::catalog;
use crate::http::{self, Shop};

async fn post(app: &Router, path: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::builder().method(Method::POST).uri(path).header(header::CONTENT_TYPE, "application/json");
    let response = app.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn orders(pool: &sqlx::Pool<Database>) -> i64 {
    sqlx::query_scalar("select count(*) from orders").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn an_order_is_told_in_the_transaction_that_writes_it_down() {
    let embedded = Embedded::new().unwrap();
    let (pool, _) = database::open(embedded.database().to_str().unwrap()).await.unwrap();
    let mock = Arc::new(MockEmitter::new(catalog().unwrap()));
    let app = http::api(Shop { emitter: Arc::<MockEmitter>::clone(&mock), pool: pool.clone() });

    let (status, answer) = post(&app, "/orders", json!({ "customer": "c-1", "prices_cents": [1_200, 800] })).await;

    assert_eq!((status, orders(&pool).await), (StatusCode::CREATED, 1));
    mock.assert_count("order.placed", 1);
    mock.assert_in_transaction("order.placed");
    mock.assert_tenant("order.placed", "c-1");
    mock.assert_payload("order.placed", &json!({ "order": answer["order"], "total_cents": 2_000 }));
}

#[tokio::test]
async fn an_order_that_can_not_be_told_is_not_taken() {
    let embedded = Embedded::new().unwrap();
    let (pool, _) = database::open(embedded.database().to_str().unwrap()).await.unwrap();
    let mock = Arc::new(MockEmitter::new(catalog().unwrap()));
    let app = http::api(Shop { emitter: Arc::<MockEmitter>::clone(&mock), pool: pool.clone() });
    let basket = json!({ "customer": "c-1", "prices_cents": [1_200] });

    mock.script(|_| Answer::Fail(ErrorKind::Storage));
    assert_eq!(post(&app, "/orders", basket.clone()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(post(&app, "/quotes", basket).await.0, StatusCode::SERVICE_UNAVAILABLE);
    // Longer than a customer's name may be.
    let nobody = json!({ "customer": "c".repeat(1_000), "prices_cents": [1_200] });
    assert_eq!(post(&app, "/orders", nobody).await.0, StatusCode::UNPROCESSABLE_ENTITY);

    assert_eq!(orders(&pool).await, 0);
    mock.assert_nothing_emitted();
}

#[tokio::test]
async fn customers_feel_nothing_of_a_broker_that_is_down_and_everything_arrives_in_order() {
    let embedded = Embedded::new().unwrap();
    let (pool, _) = database::open(embedded.database().to_str().unwrap()).await.unwrap();
    let config = Config::new("//shop", [embedded.brokers()]).unwrap();
    let producer = embedded.producer(config, catalog().unwrap()).await.unwrap();
    let relay = tokio::spawn(producer.relay(std::future::pending()));
    let app = http::api(Shop { emitter: Arc::new(producer.clone()), pool });
    let basket = |price: u32| json!({ "customer": "c-1", "prices_cents": [price] });

    for price in 0..12 {
        match price {
            4 => embedded.stop_broker().unwrap(),
            8 => embedded.start_broker().unwrap(),
            _ => {}
        }
        assert_eq!(post(&app, "/quotes", basket(price)).await.0, StatusCode::OK);
        assert_eq!(post(&app, "/orders", basket(price)).await.0, StatusCode::CREATED);
    }

    for topic in ["events.quote.given", "events.order.placed"] {
        let records = embedded.records(topic, 12).await.unwrap();
        let payloads = records.iter().map(|record| record.payload.as_deref().unwrap());
        let mut prices: Vec<_> = payloads
            .map(|payload| serde_json::from_slice::<Value>(payload).unwrap()["total_cents"].as_u64().unwrap())
            .collect();
        // What the broker took without saying so is there twice, and has the same id.
        let mut seen = std::collections::HashSet::new();
        prices.retain(|price| seen.insert(*price));
        assert_eq!(prices, (0..12).collect::<Vec<_>>(), "{topic}");
    }
    producer.close().await.unwrap();
    relay.await.unwrap().unwrap();
}
