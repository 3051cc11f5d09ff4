import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.github.luben.zstd.ZstdInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.utils.Utils;

/**
 * Compares topics of two clusters, or of a cluster and an archive, record by record with Kafka's own consumer and classes: partition
 * count, and in each partition, in order, key, value, headers in order, timestamp and its type; of an archive also each offset, which
 * may differ between clusters. Reads both sides in step, so memory does not grow with the topics.
 *
 * <p>Each side is read from its log start to the end that it has when the topic's turn comes, or had in the run. Exit status: 0 equal, 1 different, 2 failed.
 *
 * <pre>
 * --source BOOTSTRAP (--target BOOTSTRAP | --archive FOLDER --run ID) --map SOURCE=TARGET...
 * [--isolation read_uncommitted|read_committed] [--append-time-as-create] [--json]
 * </pre>
 */
public final class Compare {
    private static final int DIFFERENCES_SHOWN = 5;
    private static final Field KEY_BYTES;

    static {
        try {
            KEY_BYTES = RecordHeader.class.getDeclaredField("keyBuffer");
            KEY_BYTES.setAccessible(true);
        } catch (NoSuchFieldException otherVersion) {
            throw new ExceptionInInitializerError(otherVersion);
        }
    }

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
        Args options = new Args(args, 0, Set.of("source", "target", "archive", "run", "map", "isolation"), Set.of("append-time-as-create", "json"));
        String isolation = options.text("isolation", "read_uncommitted");
        if (options.all("map").isEmpty()) {
            throw new IllegalArgumentException("option --map SOURCE=TARGET is missing");
        }
        List<Map<String, Object>> topics = new ArrayList<>();
        try (Side source = new Cluster("source", options.text("source"), isolation);
            Side target = options.has("archive") ? new Archive(Path.of(options.text("archive")), options.text("run")) : new Cluster("target", options.text("target"), isolation)) {
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
        if (target instanceof Archive && a.offset() != b.offset()) {
            return "offset";
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
            if (!keyBytes(one).equals(keyBytes(other)) || !Arrays.equals(one.value(), other.value())) {
                return false;
            }
        }
        return !left.hasNext() && !right.hasNext();
    }

    /** A header's key as it was stored: as text, all that is not UTF-8 looks alike. */
    private static ByteBuffer keyBytes(Header header) {
        try {
            Object bytes = KEY_BYTES.get(header);
            // It is gone once the text was asked for, which is not done before.
            return ((ByteBuffer) Objects.requireNonNull(bytes, "the bytes of a header's key")).duplicate();
        } catch (IllegalAccessException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private static String show(ConsumerRecord<byte[], byte[]> record) {
        if (record == null) {
            return "nothing";
        }
        StringBuilder headers = new StringBuilder();
        for (Header header : record.headers()) {
            ByteBuffer key = keyBytes(header);
            byte[] bytes = new byte[key.remaining()];
            key.get(bytes);
            headers.append(headers.length() == 0 ? "" : ", ").append(show(bytes)).append("=").append(show(header.value()));
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

    /** Where records are read from. */
    private interface Side extends AutoCloseable {
        /** What is in each partition of a topic now. */
        List<Range> ranges(String topic) throws Exception;

        /** Starts to read a partition; must be read to its end before the next begins. */
        Reading read(Range range);

        @Override
        void close();
    }

    /** One cluster. */
    private static final class Cluster implements Side {
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

    /** What one run pinned in an archive: its manifest and topic parts tell the segments, Kafka's own classes read them. */
    private static final class Archive implements Side {
        private static final ObjectMapper JSON = new ObjectMapper();

        private final Path folder;
        private final JsonNode topics;
        /** The segments of the topic whose turn it is, by partition. */
        private List<List<Segment>> segments = List.of();

        Archive(Path folder, String run) throws IOException {
            this.folder = folder;
            topics = JSON.readTree(folder.resolve("runs").resolve(run).resolve("manifest.json").toFile()).get("topics");
        }

        @Override
        public List<Range> ranges(String topic) throws IOException {
            JsonNode entry = topics.get(topic);
            if (entry == null) {
                throw new IllegalArgumentException("the manifest has no topic " + topic);
            }
            Path file = folder.resolve("runs").resolve(Path.of(entry.get("part").asText(), "topics", topic, "part.json.zst"));
            JsonNode part;
            try (InputStream in = new ZstdInputStream(Files.newInputStream(file))) {
                part = JSON.readTree(in);
            }
            List<Range> ranges = new ArrayList<>();
            segments = new ArrayList<>();
            for (JsonNode pinned : part.get("partitions")) {
                int partition = pinned.get("partition").asInt();
                if (partition != ranges.size()) {
                    throw new IllegalArgumentException(file + " has partition " + partition + " at place " + ranges.size());
                }
                long end = pinned.get("end").asLong();
                ranges.add(new Range(new TopicPartition(topic, partition), pinned.get("logStart").asLong(), end));
                Path home = folder.resolve(Path.of("topics", topic, part.get("topicId").asText(), Integer.toString(partition), pinned.get("generation").asText()));
                List<Segment> chain = new ArrayList<>();
                for (JsonNode name : pinned.get("segments")) {
                    String[] fields = name.asText().split("\\.");
                    long start = Long.parseLong(fields[0]);
                    // A segment counts up to where the next one starts.
                    if (!chain.isEmpty()) {
                        Segment last = chain.remove(chain.size() - 1);
                        chain.add(new Segment(last.file(), last.start(), Math.min(last.end(), start)));
                    }
                    chain.add(new Segment(home.resolve(name.asText()), start, Math.min(Long.parseLong(fields[1]), end)));
                }
                segments.add(chain);
            }
            return ranges;
        }

        @Override
        public Reading read(Range range) {
            List<Segment> chain = segments.get(range.partition().partition());
            return Reading.start("read archive", records -> {
                for (Segment segment : chain) {
                    try (FileRecords file = FileRecords.open(segment.file().toFile(), false)) {
                        for (RecordBatch batch : file.batches()) {
                            batch.ensureValid();
                            List<ConsumerRecord<byte[], byte[]>> read = new ArrayList<>();
                            for (Record record : batch) {
                                boolean counts = record.offset() >= Math.max(segment.start(), range.start()) && record.offset() < segment.end();
                                if (counts && !batch.isControlBatch()) {
                                    read.add(consumed(range.partition(), batch, record));
                                }
                            }
                            records.put(read);
                        }
                    }
                }
            });
        }

        private static ConsumerRecord<byte[], byte[]> consumed(TopicPartition partition, RecordBatch batch, Record record) {
            return new ConsumerRecord<>(partition.topic(), partition.partition(), record.offset(), record.timestamp(), batch.timestampType(), record.keySize(), record.valueSize(),
                Utils.toNullableArray(record.key()), Utils.toNullableArray(record.value()), new RecordHeaders(record.headers()), Optional.empty());
        }

        @Override
        public void close() {}

        /** A segment's file, and the offsets for which it counts. */
        private record Segment(Path file, long start, long end) {}
    }

    /** The offsets of a partition that are compared; the end is the next offset. */
    private record Range(TopicPartition partition, long start, long end) {}

    /** Hands out the records of a partition in order, some at a time. */
    private interface Feed {
        void run(BlockingQueue<List<ConsumerRecord<byte[], byte[]>>> records) throws Exception;
    }

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

        /** Reads in a thread of its own, so that both sides are fetched and decoded at once. */
        static Reading start(String name, Feed feed) {
            Reading reading = new Reading();
            reading.thread = new Thread(() -> {
                try {
                    feed.run(reading.queue);
                    reading.queue.put(END);
                } catch (Throwable failure) {
                    reading.failure = failure;
                    reading.queue.clear();
                    reading.queue.offer(END);
                }
            }, name);
            reading.thread.setDaemon(true);
            reading.thread.start();
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
