import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** One cluster. */
final class Cluster implements Side {
    private final String name;
    private final KafkaConsumer<byte[], byte[]> consumer;

    Cluster(String name, String bootstrap, String isolation) {
        this.name = name;
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, isolation);
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
        properties.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
        properties.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 4000);
        properties.put(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, 4 * 1024 * 1024);
        properties.put(ConsumerConfig.FETCH_MAX_BYTES_CONFIG, 8 * 1024 * 1024);
        // A fetch that waits at the end of one partition holds up the first one of the next.
        properties.put(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 20);
        properties.put(ConsumerConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, 30_000);
        properties.put(ConsumerConfig.CLIENT_ID_CONFIG, "lab-compare-" + name);
        consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    @Override
    public List<Range> ranges(String topic) {
        // From the list: partitionsFor would wait for an unknown topic to appear.
        var partitions = consumer.listTopics().get(topic);
        if (partitions == null) {
            throw new IllegalArgumentException("the " + name + " cluster has no topic " + topic);
        }
        List<TopicPartition> keys = new ArrayList<>();
        for (int partition = 0; partition < partitions.size(); partition++) {
            keys.add(new TopicPartition(topic, partition));
        }
        Map<TopicPartition, Long> starts = consumer.beginningOffsets(keys);
        Map<TopicPartition, Long> ends = consumer.endOffsets(keys);
        return keys.stream().map(key -> new Range(key, starts.get(key), ends.get(key))).toList();
    }

    @Override
    public Reading read(Range range) {
        TopicPartition partition = range.partition();
        long end = range.end();
        if (range.start() >= end) {
            return Reading.empty();
        }
        return Reading.start("read " + name, records -> {
            consumer.assign(List.of(partition));
            consumer.seek(partition, range.start());
            long progress = System.nanoTime();
            // The position also moves over what is not handed out: control batches, aborted records, compacted offsets.
            for (long at = range.start(); at < end; ) {
                List<ConsumerRecord<byte[], byte[]>> polled = consumer.poll(Duration.ofMillis(500)).records(partition);
                // What was written after the end was asked for is not part of the comparison.
                int within = polled.size();
                while (within > 0 && polled.get(within - 1).offset() >= end) {
                    within--;
                }
                if (within > 0) {
                    records.put(polled.subList(0, within));
                }
                long position = consumer.position(partition);
                if (position > at) {
                    progress = System.nanoTime();
                } else if (System.nanoTime() - progress > 30_000_000_000L) {
                    throw new IllegalStateException("no record of " + partition + " came from the " + name + " for 30 s at offset " + position + " of " + end);
                }
                at = position;
            }
        });
    }

    @Override
    public void close() {
        try {
            consumer.close();
        } catch (java.util.ConcurrentModificationException stillReading) {
            // The comparison failed on the other side; the program ends now, and the reading thread with it.
        }
    }
}
