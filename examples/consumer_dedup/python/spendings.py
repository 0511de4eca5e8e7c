"""Reads the events of the shop in `examples/service`, and adds up what each customer has spent: each order once, however often its
event arrives. Needs `pip install confluent-kafka`; the settings are those of the one in Rust.
"""

import json
import logging
import os
import signal
import sqlite3

from confluent_kafka import Consumer

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")


class Spendings:
    def __init__(self, file):
        self.database = sqlite3.connect(file)
        self.database.execute("create table if not exists spent (customer text primary key, cents integer not null)")
        # An event's identity is its source with its id.
        self.database.execute(
            "create table if not exists taken"
            " (source text, id text, at text default current_timestamp, primary key (source, id))"
        )

    def take(self, source, id, order):
        """Takes an event, and says whether it was new. What it does and that it was taken are one transaction."""
        with self.database:
            taken = self.database.execute("insert into taken (source, id) values (?, ?) on conflict do nothing", (source, id))
            if taken.rowcount == 0:
                return False
            self.database.execute(
                "insert into spent values (?, ?) on conflict (customer) do update set cents = cents + excluded.cents",
                (order["customer"], order["total_cents"]),
            )
            return True


def main():
    spendings = Spendings(os.environ.get("SPENDINGS", "spendings.sqlite"))
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092"),
            "group.id": os.environ.get("GROUP", "spendings"),
            "auto.offset.reset": "earliest",
            # An offset is committed when its event is taken, and not before.
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([os.environ.get("TOPIC", "events.order.placed")])
    terminated = []
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
    while not terminated:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            logging.warning("nothing can be read: %s", message.error())
            continue
        take(spendings, message)
        # If this is lost, the event comes again.
        consumer.commit(message, asynchronous=True)
    consumer.close()


def take(spendings, message):
    headers = dict(message.headers() or [])
    try:
        source, id = headers["ce_source"].decode(), headers["ce_id"].decode()
        order = json.loads(message.value())
        order = {"customer": str(order["customer"]), "total_cents": int(order["total_cents"])}
    except (KeyError, TypeError, ValueError) as error:
        # A real one would put it aside.
        logging.error("the record at %s was left out: %r", message.offset(), error)
        return
    is_new = spendings.take(source, id, order)
    logging.info("taken: %s, %s", id, "new" if is_new else "again")


if __name__ == "__main__":
    main()
