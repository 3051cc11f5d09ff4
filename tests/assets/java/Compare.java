import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Compares topics of two clusters record by record with Kafka's own consumer: partition count, and in each partition, in order, key,
 * value, headers in order, timestamp and its type. Offsets may differ. Reads both sides in step, so memory does not grow with the topics.
 *
 * <p>Each side is read from its log start to the end that it has when the topic's turn comes. Exit status: 0 equal, 1 different, 2 failed.
 */
public final class Compare {
    private static final int DIFFERENCES_SHOWN = 5;

    private final Side source;
    private final Side target;
    private final boolean appendTimeAsCreate;

    private Compare(Side source, Side target, boolean appendTimeAsCreate) {
        this.source = source;
        this.target = target;
        this.appendTimeAsCreate = appendTimeAsCreate;
    }

    public static void main(String[] args) {
        Args.main(args, Compare::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 0, Set.of("source", "target", "map", "isolation"), Set.of("append-time-as-create", "json"));
        String isolation = options.text("isolation", "read_uncommitted");
        if (options.all("map").isEmpty()) {
            throw new IllegalArgumentException("option --map SOURCE=TARGET is missing");
        }
        List<Map<String, Object>> topics = new ArrayList<>();
        try (Side source = new Side("source", options.text("source"), isolation); Side target = new Side("target", options.text("target"), isolation)) {
            Compare compare = new Compare(source, target, options.has("append-time-as-create"));
            for (Map.Entry<String, String> pair : options.pairs("map").entrySet()) {
                topics.add(compare.topic(pair.getKey(), pair.getValue()));
            }
        }
        boolean equal = topics.stream().allMatch(topic -> (boolean) topic.get("equal"));
        if (options.has("json")) {
            out.println(new ObjectMapper().writeValueAsString(Map.of("equal", equal, "topics", topics)));
        } else {
            topics.forEach(topic -> print(topic, out));
        }
        return equal ? 0 : 1;
    }

    private static void print(Map<String, Object> topic, PrintStream out) {
        out.printf("%s -> %s: %s partitions, %s records, %s bytes: %s%n", topic.get("topic"), topic.get("target"), topic.get("partitions"), topic.get("records"), topic.get("bytes"),
            (boolean) topic.get("equal") ? "equal" : "DIFFERENT (target has " + topic.get("target_records") + " records)");
        for (Object difference : (List<?>) topic.get("differences")) {
            out.println("  " + difference);
        }
    }

    private Map<String, Object> topic(String sourceTopic, String targetTopic) throws Exception {
        List<Range> sourceRanges = source.ranges(sourceTopic);
        List<Range> targetRanges = target.ranges(targetTopic);
        int sourcePartitions = sourceRanges.size();
        int targetPartitions = targetRanges.size();
        List<String> differences = new ArrayList<>();
        if (sourcePartitions != targetPartitions) {
            differences.add("partitions: source has " + sourcePartitions + ", target has " + targetPartitions);
        }
        long records = 0;
        long targetRecords = 0;
        long bytes = 0;
        for (int partition = 0; partition < Math.max(sourcePartitions, targetPartitions); partition++) {
            Reading left = partition < sourcePartitions ? source.read(sourceRanges.get(partition)) : Reading.empty();
            Reading right = partition < targetPartitions ? target.read(targetRanges.get(partition)) : Reading.empty();
            boolean differs = false;
            for (long index = 0; ; index++) {
                ConsumerRecord<byte[], byte[]> a = left.next();
                ConsumerRecord<byte[], byte[]> b = right.next();
                if (a == null && b == null) {
                    break;
                }
                if (a != null) {
                    records++;
                    bytes += Math.max(0, a.serializedKeySize()) + Math.max(0, a.serializedValueSize());
                }
                if (b != null) {
                    targetRecords++;
                }
                String difference = differs ? null : difference(a, b);
                if (difference != null) {
                    // What follows in this partition is only counted: after one lost record everything differs.
                    differs = true;
                    if (differences.size() < DIFFERENCES_SHOWN) {
                        differences.add("partition " + partition + ", record " + index + ": " + difference + "; source " + show(a) + "; target " + show(b));
                    }
                }
            }
        }
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("topic", sourceTopic);
        result.put("target", targetTopic);
        result.put("partitions", sourcePartitions);
        result.put("records", records);
        result.put("target_records", targetRecords);
        result.put("bytes", bytes);
        result.put("equal", differences.isEmpty());
        result.put("differences", differences);
        return result;
    }

    /** What differs, or null. */
    private String difference(ConsumerRecord<byte[], byte[]> a, ConsumerRecord<byte[], byte[]> b) {
        if (a == null) {
            return "missing in the source";
        }
        if (b == null) {
            return "missing in the target";
        }
        if (!Arrays.equals(a.key(), b.key())) {
            return "key";
        }
        if (!Arrays.equals(a.value(), b.value())) {
            return "value";
        }
        if (!sameHeaders(a, b)) {
            return "headers";
        }
        if (a.timestamp() != b.timestamp()) {
            return "timestamp";
        }
        boolean becomesCreate = appendTimeAsCreate && a.timestampType() == TimestampType.LOG_APPEND_TIME;
        TimestampType expected = becomesCreate ? TimestampType.CREATE_TIME : a.timestampType();
        return b.timestampType() == expected ? null : "timestamp type";
    }

    private static boolean sameHeaders(ConsumerRecord<byte[], byte[]> a, ConsumerRecord<byte[], byte[]> b) {
        Iterator<Header> left = a.headers().iterator();
        Iterator<Header> right = b.headers().iterator();
        while (left.hasNext() && right.hasNext()) {
            Header one = left.next();
            Header other = right.next();
            if (!one.key().equals(other.key()) || !Arrays.equals(one.value(), other.value())) {
                return false;
            }
        }
        return !left.hasNext() && !right.hasNext();
    }

    private static String show(ConsumerRecord<byte[], byte[]> record) {
        if (record == null) {
            return "nothing";
        }
        StringBuilder headers = new StringBuilder();
        for (Header header : record.headers()) {
            headers.append(headers.length() == 0 ? "" : ", ").append(header.key()).append("=").append(show(header.value()));
        }
        return "{offset " + record.offset() + ", " + record.timestampType() + " " + record.timestamp() + ", key " + show(record.key()) + ", headers [" + headers + "], value " + show(record.value()) + "}";
    }

    private static String show(byte[] bytes) {
        if (bytes == null) {
            return "null";
        }
        String text = new String(bytes, 0, Math.min(bytes.length, 60), StandardCharsets.UTF_8).replaceAll("\\p{Cntrl}", "?");
        return "'" + text + (bytes.length > 60 ? "...' (" + bytes.length + " bytes)" : "'");
    }

    /** One cluster, read by a thread of its own so that both sides are fetched and decoded at once. */
    private static final class Side implements AutoCloseable {
        private final String name;
        private final KafkaConsumer<byte[], byte[]> consumer;

        Side(String name, String bootstrap, String isolation) {
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
            properties.put(ConsumerConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, 30_000);
            properties.put(ConsumerConfig.CLIENT_ID_CONFIG, "lab-compare-" + name);
            consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        }

        /** What is in each partition of a topic now. */
        List<Range> ranges(String topic) {
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

        /** Starts to read a partition; must be read to its end before the next begins. */
        Reading read(Range range) {
            TopicPartition partition = range.partition();
            long start = range.start();
            long end = range.end();
            if (start >= end) {
                return Reading.empty();
            }
            Reading reading = new Reading();
            Thread thread = new Thread(() -> {
                try {
                    consumer.assign(List.of(partition));
                    consumer.seek(partition, start);
                    long progress = System.nanoTime();
                    // The position also moves over what is not handed out: control batches, aborted records, compacted offsets.
                    for (long at = start; at < end; ) {
                        List<ConsumerRecord<byte[], byte[]>> records = consumer.poll(Duration.ofMillis(500)).records(partition);
                        // What was written after the end was asked for is not part of the comparison.
                        int within = records.size();
                        while (within > 0 && records.get(within - 1).offset() >= end) {
                            within--;
                        }
                        if (within > 0) {
                            reading.queue.put(records.subList(0, within));
                        }
                        long position = consumer.position(partition);
                        if (position > at) {
                            progress = System.nanoTime();
                        } else if (System.nanoTime() - progress > 30_000_000_000L) {
                            throw new IllegalStateException("no record of " + partition + " came from the " + name + " for 30 s at offset " + position + " of " + end);
                        }
                        at = position;
                    }
                    reading.queue.put(Reading.END);
                } catch (Throwable failure) {
                    reading.failure = failure;
                    reading.queue.clear();
                    reading.queue.offer(Reading.END);
                }
            }, "read " + name);
            thread.setDaemon(true);
            reading.thread = thread;
            thread.start();
            return reading;
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

    /** The offsets of a partition that are compared; the end is the next offset. */
    private record Range(TopicPartition partition, long start, long end) {}

    /** The records of one partition, a few polls ahead of the comparison. */
    private static final class Reading {
        static final List<ConsumerRecord<byte[], byte[]>> END = new ArrayList<>();

        final BlockingQueue<List<ConsumerRecord<byte[], byte[]>>> queue = new ArrayBlockingQueue<>(4);
        volatile Throwable failure;
        private Thread thread;
        private Iterator<ConsumerRecord<byte[], byte[]>> current = END.iterator();
        private boolean ended;

        static Reading empty() {
            Reading reading = new Reading();
            reading.ended = true;
            return reading;
        }

        ConsumerRecord<byte[], byte[]> next() throws Exception {
            while (!current.hasNext()) {
                if (ended) {
                    return null;
                }
                List<ConsumerRecord<byte[], byte[]>> records = queue.take();
                if (failure != null) {
                    throw new IllegalStateException("reading failed", failure);
                }
                if (records == END) {
                    // The consumer belongs to one thread at a time.
                    thread.join();
                    ended = true;
                    return null;
                }
                current = records.iterator();
            }
            return current.next();
        }
    }
}
