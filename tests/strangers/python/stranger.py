"""Reads and writes CloudEvents with the Python SDK: `stranger.py [--v1] read|write BROKERS TOPIC`.

See ../README.md. With `--v1` the SDK's older interface is used, which is the one of its releases 1.x.
"""

import base64
import json
import sys
from datetime import datetime

from cloudevents.core.bindings import kafka as core
from cloudevents.core.v1.event import CloudEvent as CoreEvent
from cloudevents.v1 import kafka as v1
from cloudevents.v1.http import CloudEvent as V1Event
from confluent_kafka import Consumer, Producer, TopicPartition

# More than any record of the tests has.
MAX_BYTES = 4_000_000
TIMEOUT_SECONDS = 60


def main():
    arguments = sys.argv[1:]
    api = V1() if arguments[0] == "--v1" else Core()
    command, brokers, topic = arguments[-3:]
    {"read": read, "write": write}[command](api, brokers, topic)


class Core:
    """The interface of the releases 2.x. It parses the data, as the content type says."""

    Message = core.KafkaMessage

    def time(self, text):
        return datetime.fromisoformat(text.replace("Z", "+00:00"))

    def read(self, message):
        event = core.from_kafka_event(message)
        return event.get_attributes(), event.get_data()

    def write(self, mode, attributes, data):
        event = CoreEvent(attributes, data)
        return core.to_binary_event(event) if mode == "binary" else core.to_structured_event(event)


class V1:
    """The interface of the releases 1.x. It leaves the data and the choice of the mode to its caller."""

    Message = v1.KafkaMessage

    def time(self, text):
        return text  # it takes times as they are on the wire

    def read(self, message):
        if is_structured(message.headers):
            event = v1.from_structured(message)
        else:
            event = v1.from_binary(message, data_unmarshaller=lambda data: data)
        return event.get_attributes(), event.get_data()

    def write(self, mode, attributes, data):
        event = V1Event(attributes, data)
        if mode == "structured":
            return v1.to_structured(event)
        as_it_is = isinstance(data, (bytes, str))
        return v1.to_binary(event, data_marshaller=(lambda data: data) if as_it_is else None)


def is_structured(headers):
    return headers.get("content-type", b"").startswith(b"application/cloudevents")


def read(api, brokers, topic):
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "none",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        }
    )
    partitions = consumer.list_topics(topic, TIMEOUT_SECONDS).topics[topic].partitions
    for partition in partitions:
        consumer.assign([TopicPartition(topic, partition, 0)])
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), TIMEOUT_SECONDS)
        offset = 0
        while offset < end:
            record = consumer.poll(TIMEOUT_SECONDS)
            if record is None:
                sys.exit(f"no record of {topic}/{partition} at {offset} after {TIMEOUT_SECONDS} s")
            if record.error():
                sys.exit(str(record.error()))
            print_line({"partition": partition, "offset": record.offset(), **parsed(api, record)})
            offset = record.offset() + 1


def parsed(api, record):
    headers = dict(record.headers() or [])
    try:
        attributes, data = api.read(api.Message(headers, record.key(), record.value()))
        return {
            "mode": "structured" if is_structured(headers) else "binary",
            "attributes": {name: attribute_out(value) for name, value in attributes.items()},
            "data": data_out(data),
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def attribute_out(value):
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode()
    return value


def data_out(data):
    if data is None:
        return None
    if isinstance(data, bytes):
        return {"base64": base64.b64encode(data).decode()}
    if isinstance(data, str):
        return {"text": data}
    return {"json": data}


def write(api, brokers, topic):
    producer = Producer({"bootstrap.servers": brokers, "message.max.bytes": MAX_BYTES, "acks": "all"})
    failed = []

    def on_delivery(error, _):
        if error:
            failed.append(str(error))

    for line in sys.stdin:
        event = json.loads(line)
        try:
            attributes = {name: attribute_in(api, value) for name, value in event["attributes"].items()}
            message = api.write(event["mode"], attributes, data_in(event["data"]))
        except Exception as error:
            print_line({"error": f"{type(error).__name__}: {error}"})
            continue
        headers = list(message.headers.items())
        producer.produce(topic, message.value, message.key, headers=headers, on_delivery=on_delivery)
        print_line({})
    producer.flush(TIMEOUT_SECONDS)
    if failed or len(producer):
        sys.exit(f"not delivered: {failed or len(producer)}")


def attribute_in(api, value):
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    if kind == "timestamp":
        return api.time(text)
    if kind == "binary":
        return base64.b64decode(text)
    return text  # the SDK has no type for URIs


def data_in(data):
    if data is None:
        return None
    ((kind, value),) = data.items()
    return base64.b64decode(value) if kind == "base64" else value


def print_line(value):
    print(json.dumps(value), flush=True)


main()
