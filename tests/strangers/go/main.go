// Reads and writes CloudEvents with the Go SDK and its binding for sarama: `stranger read|write BROKERS TOPIC`.
// See ../README.md.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

const (
	// More than any record of the tests has.
	maxBytes = 4_000_000
	timeout  = 60 * time.Second
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: stranger read|write BROKERS TOPIC")
	}
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Producer.Return.Successes = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.MaxMessageBytes = maxBytes
	client, err := sarama.NewClient(strings.Split(os.Args[2], ","), config)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	commands := map[string]func(sarama.Client, string) error{"read": read, "write": write}
	if err := commands[os.Args[1]](client, os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func read(client sarama.Client, topic string) error {
	partitions, err := client.Partitions(topic)
	if err != nil {
		return err
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	defer consumer.Close()
	for _, partition := range partitions {
		if err := readPartition(client, consumer, topic, partition); err != nil {
			return fmt.Errorf("%s/%d: %w", topic, partition, err)
		}
	}
	return nil
}

func readPartition(client sarama.Client, consumer sarama.Consumer, topic string, partition int32) error {
	end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
	if err != nil || end == 0 {
		return err
	}
	records, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	defer records.Close()
	for {
		select {
		case record := <-records.Messages():
			line := parsed(record)
			line["partition"], line["offset"] = partition, record.Offset
			if err := printLine(line); err != nil {
				return err
			}
			if record.Offset+1 >= end {
				return nil
			}
		case <-time.After(timeout):
			return errors.New("no record for a long time")
		}
	}
}

func parsed(record *sarama.ConsumerMessage) map[string]any {
	message := kafka_sarama.NewMessageFromConsumerMessage(record)
	parsed, err := binding.ToEvent(context.Background(), message)
	if err == nil {
		err = parsed.Validate()
	}
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	var data any
	if parsed.Data() != nil {
		data = map[string]any{"base64": base64.StdEncoding.EncodeToString(parsed.Data())}
	}
	return map[string]any{"mode": message.ReadEncoding().String(), "attributes": attributesOut(parsed), "data": data}
}

func attributesOut(event *event.Event) map[string]any {
	attributes := map[string]any{"specversion": event.SpecVersion(), "id": event.ID(), "source": event.Source(), "type": event.Type()}
	if !event.Time().IsZero() {
		attributes["time"] = types.FormatTime(event.Time())
	}
	for name, text := range map[string]string{
		"subject": event.Subject(), "datacontenttype": event.DataContentType(), "dataschema": event.DataSchema(),
	} {
		if text != "" {
			attributes[name] = text
		}
	}
	for name, value := range event.Extensions() {
		attributes[name] = value
	}
	return attributes
}

// What is to be written.
type line struct {
	Mode       string
	Attributes map[string]any
	Data       *struct {
		Base64 []byte
		Text   *string
		JSON   json.RawMessage
	}
}

func write(client sarama.Client, topic string) error {
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	defer producer.Close()
	input := bufio.NewReader(os.Stdin)
	for {
		text, err := input.ReadBytes('\n')
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		message, err := encoded(text)
		if err != nil {
			err = printLine(map[string]any{"error": err.Error()})
		} else {
			message.Topic = topic
			if _, _, err = producer.SendMessage(message); err == nil {
				err = printLine(map[string]any{})
			}
		}
		if err != nil {
			return err
		}
	}
}

func encoded(text []byte) (*sarama.ProducerMessage, error) {
	var line line
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&line); err != nil {
		return nil, err
	}
	event, err := line.event()
	if err != nil {
		return nil, err
	}
	if err := event.Validate(); err != nil {
		return nil, err
	}
	mode := binding.WithForceBinary
	if line.Mode == "structured" {
		mode = binding.WithForceStructured
	}
	message := &sarama.ProducerMessage{}
	err = kafka_sarama.WriteProducerMessage(mode(context.Background()), (*binding.EventMessage)(event), message)
	return message, err
}

func (line line) event() (*event.Event, error) {
	event := event.New()
	for name, value := range line.Attributes {
		value, err := attributeIn(value)
		if err != nil {
			return nil, err
		}
		switch name {
		case "specversion":
			event.SetSpecVersion(value.(string))
		case "id":
			event.SetID(value.(string))
		case "source":
			event.SetSource(value.(string))
		case "type":
			event.SetType(value.(string))
		case "time":
			event.SetTime(value.(time.Time))
		case "subject":
			event.SetSubject(value.(string))
		case "dataschema":
			event.SetDataSchema(value.(string))
		case "datacontenttype":
			event.SetDataContentType(value.(string))
		default:
			event.SetExtension(name, value)
		}
	}
	if line.Data == nil {
		return &event, nil
	}
	var data any = line.Data.Base64
	if line.Data.Text != nil {
		data = *line.Data.Text
	} else if line.Data.JSON != nil {
		data = line.Data.JSON
	}
	return &event, event.SetData(event.DataContentType(), data)
}

func attributeIn(value any) (any, error) {
	switch value := value.(type) {
	case json.Number:
		return types.ParseInteger(value.String())
	case map[string]any:
		for kind, text := range value {
			switch kind {
			case "timestamp":
				return types.ParseTime(text.(string))
			case "binary":
				return types.ParseBinary(text.(string))
			case "uri":
				return types.ParseURI(text.(string)), nil
			case "uriref":
				return types.ParseURIRef(text.(string)), nil
			}
		}
		return nil, fmt.Errorf("no attribute: %v", value)
	default:
		return value, nil
	}
}

func printLine(line map[string]any) error {
	return json.NewEncoder(os.Stdout).Encode(line)
}
