import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Makes a set of topics, {@code PREFIX.*}, with all that a copy of a topic may get wrong: see {@link #TOPICS} for each. Topics of that
 * prefix from before are removed. Prints their names as a JSON list.
 *
 * <p>The open transaction in {@code transactions} stays open until the next call with this prefix, the end of the JVM, or the
 * transaction's time-out of 15 minutes. Options: {@code --bootstrap B --prefix P}.
 */
public final class Nasty {
    /** Length of the longest name that Kafka permits. */
    private static final int LONGEST = 249;
    private static final int MEGABYTE = 1_000_000;
    /** A time so far back that default retention would delete what has it at once. */
    private static final long PAST = 1_600_000_000_000L;
    private static final int KEYS = 20;

    /** Producers that have left a transaction open, by prefix. */
    private static final Map<String, KafkaProducer<byte[], byte[]>> OPEN = new ConcurrentHashMap<>();

    private record Topic(String name, int partitions, Map<String, String> config, Filling filling) {}

    private interface Filling {
        void fill(Nasty nasty, String topic) throws Exception;
    }

    private static final List<Topic> TOPICS = List.of(
        // First, so that the cleaner works while the others are filled; compaction is waited for at the end.
        new Topic("compacted", 2, Map.of("cleanup.policy", "compact", "segment.ms", "1000", "min.cleanable.dirty.ratio", "0.001"), Nasty::compacted),
        new Topic("transactions", 4, Map.of(), Nasty::transactions),
        new Topic("bytes", 2, Map.of(), Nasty::bytes),
        new Topic("times", 3, Map.of("retention.ms", "-1"), Nasty::times),
        new Topic("append-time", 2, Map.of("message.timestamp.type", "LogAppendTime"), Nasty::appendTime),
        new Topic("codecs", 7, Map.of(), Nasty::codecs),
        new Topic("large", 2, Map.of("max.message.bytes", "12000000"), Nasty::large),
        new Topic("single", 1, Map.of(), Nasty::single),
        new Topic("trimmed", 3, Map.of(), Nasty::trimmed),
        new Topic("sparse", 5, Map.of(), Nasty::sparse),
        new Topic("empty", 3, Map.of(), (nasty, topic) -> { }),
        new Topic("long_", 1, Map.of(), (nasty, topic) -> nasty.sendAll(topic, 0, "none", 50)));

    private final String bootstrap;
    private final String prefix;
    private final Admin admin;

    private Nasty(String bootstrap, String prefix, Admin admin) {
        this.bootstrap = bootstrap;
        this.prefix = prefix;
        this.admin = admin;
    }

    public static void main(String[] args) {
        Args.main(args, Nasty::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 0, Set.of("bootstrap", "prefix"), Set.of());
        String bootstrap = options.text("bootstrap");
        String prefix = options.text("prefix");
        KafkaProducer<byte[], byte[]> before = OPEN.remove(prefix);
        if (before != null) {
            before.close(Duration.ZERO);
        }
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            Topics.delete(admin, admin.listTopics().names().get().stream().filter(name -> name.startsWith(prefix + ".")).toList());
            Nasty nasty = new Nasty(bootstrap, prefix, admin);
            Map<Topic, String> names = new LinkedHashMap<>();
            TOPICS.forEach(topic -> names.put(topic, name(prefix, topic)));
            List<NewTopic> wanted = new ArrayList<>();
            names.forEach((topic, name) -> wanted.add(new NewTopic(name, Optional.of(topic.partitions()), Optional.empty()).configs(topic.config())));
            Topics.create(admin, wanted);
            for (Topic topic : TOPICS) {
                topic.filling().fill(nasty, names.get(topic));
            }
            nasty.awaitCompaction(names.get(TOPICS.get(0)));
            out.println(new ObjectMapper().writeValueAsString(names.values()));
        }
        return 0;
    }

    private static String name(String prefix, Topic topic) {
        String name = prefix + "." + topic.name();
        return topic.name().endsWith("_") ? name + "._".repeat(LONGEST).substring(0, LONGEST - name.length()) : name;
    }

    /**
     * Holes between and inside batches, a batch of which nothing is left (the last one of a producer is kept as a header), tombstones;
     * in partition 1 the same with transactions.
     */
    private void compacted(String topic) throws Exception {
        try (KafkaProducer<byte[], byte[]> gone = producer("lz4", null); KafkaProducer<byte[], byte[]> kept = producer("none", null)) {
            batch(gone, topic, 0, PAST, 0, KEYS, "superseded");
            for (int round = 0; round < 4; round++) {
                batch(kept, topic, 0, PAST + 1 + round, 0, KEYS - round, "round " + round);
            }
            batch(kept, topic, 0, PAST + 10, 0, 3, null);
            // A record with a much later time begins a segment: the cleaner leaves only the last one alone.
            batch(kept, topic, 0, System.currentTimeMillis(), KEYS, KEYS + 1, "last");
        }
        try (KafkaProducer<byte[], byte[]> producer = producer("gzip", id("compacted"))) {
            producer.initTransactions();
            for (int round = 0; round < 4; round++) {
                boolean commit = round != 2;
                producer.beginTransaction();
                batch(producer, topic, 1, 0, KEYS - round, commit ? "round " + round : "aborted");
                end(producer, commit);
            }
            producer.beginTransaction();
            // Later than the control batches, which the broker stamps.
            batch(producer, topic, 1, System.currentTimeMillis() + 60_000, KEYS, KEYS + 1, "last");
            end(producer, true);
        }
    }

    /** Waits until exactly those records are left in the compacted topic that compaction must leave. */
    private void awaitCompaction(String topic) {
        // Partition 0: one record of each key, three of which are tombstones, and the last. Partition 1, without the aborted round: the same.
        long deadline = System.nanoTime() + 30_000_000_000L;
        for (int partition = 0; partition < 2; partition++) {
            int left;
            while ((left = count(new TopicPartition(topic, partition))) != KEYS + 1) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException(topic + "-" + partition + " has " + left + " records after 30 s, compaction should have left " + (KEYS + 1));
                }
            }
        }
    }

    private int count(TopicPartition partition) {
        Map<String, Object> config = Map.of(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap, ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            int count = 0;
            while (consumer.position(partition) < end) {
                count += consumer.poll(Duration.ofMillis(200)).count();
            }
            return count;
        }
    }

    /** 0: two transactions and plain records interleaved, then one producer that aborts and commits in turn; 1: one left open; 2: only aborted; 3: as 0, compressed. */
    private void transactions(String topic) throws Exception {
        for (int partition : new int[] {0, 3}) {
            String codec = partition == 0 ? "none" : "lz4";
            try (KafkaProducer<byte[], byte[]> commits = producer(codec, id("commits")); KafkaProducer<byte[], byte[]> aborts = producer(codec, id("aborts"));
                KafkaProducer<byte[], byte[]> plain = producer(codec, null)) {
                commits.initTransactions();
                aborts.initTransactions();
                commits.beginTransaction();
                aborts.beginTransaction();
                batch(commits, topic, partition, 0, 5, "committed");
                batch(aborts, topic, partition, 0, 5, "aborted");
                batch(plain, topic, partition, 0, 3, "plain");
                batch(commits, topic, partition, 5, 8, "committed");
                batch(aborts, topic, partition, 5, 8, "aborted");
                end(aborts, false);
                batch(plain, topic, partition, 3, 6, "plain");
                end(commits, true);
                for (int turn = 0; turn < 4; turn++) {
                    aborts.beginTransaction();
                    batch(aborts, topic, partition, 0, 4, "turn " + turn);
                    end(aborts, turn % 2 == 1);
                }
                batch(plain, topic, partition, 6, 9, "plain");
            }
        }
        try (KafkaProducer<byte[], byte[]> aborts = producer("none", id("aborts"))) {
            aborts.initTransactions();
            for (int turn = 0; turn < 3; turn++) {
                aborts.beginTransaction();
                batch(aborts, topic, 2, 0, 4, "aborted");
                end(aborts, false);
            }
        }
        KafkaProducer<byte[], byte[]> open = producer("none", id("open"));
        OPEN.put(prefix, open);
        open.initTransactions();
        open.beginTransaction();
        batch(open, topic, 1, 0, 5, "committed");
        end(open, true);
        open.beginTransaction();
        batch(open, topic, 1, 5, 10, "open");
        try (KafkaProducer<byte[], byte[]> plain = producer("none", null)) {
            // Not to be seen by who reads committed records only, for as long as the transaction before them is open.
            batch(plain, topic, 1, 10, 15, "behind the open transaction");
        }
    }

    /** 0: null, empty and non-UTF-8 keys and values, and headers with repeated names, null and empty values, in an order; 1: header keys that are not UTF-8. */
    private void bytes(String topic) throws Exception {
        byte[][] values = {null, {}, {(byte) 0xff, (byte) 0xfe, 0, (byte) 0xc3}, "größe".getBytes(StandardCharsets.UTF_8)};
        List<List<Header>> headers = List.of(
            List.of(),
            List.of(header("a", "1"), header("b", "2"), header("a", "1"), header("a", "0")),
            List.of(header("b", "2"), header("a", null), header("a", ""), header("", "no name"), header("größe", "€")),
            List.of(new RecordHeader("binary", values[2])));
        try (KafkaProducer<byte[], byte[]> producer = producer("none", null)) {
            for (byte[] key : values) {
                for (byte[] value : values) {
                    for (List<Header> some : headers) {
                        producer.send(new ProducerRecord<>(topic, 0, null, key, value, some));
                    }
                }
            }
        }
        // Kafka's own classes write header keys as UTF-8; other producers write what they like.
        Header[] marked = {header("key-@@", "1"), header("key-##", "2"), header("key-@@", "3")};
        long now = System.currentTimeMillis();
        Raw.of(Compression.NONE, new SimpleRecord(now, values[3], values[3], marked), new SimpleRecord(now, values[2], null, marked))
            .replacing("key-@@".getBytes(StandardCharsets.US_ASCII), new byte[] {'k', 'e', 'y', '-', (byte) 0xff, (byte) 0xfe})
            .replacing("key-##".getBytes(StandardCharsets.US_ASCII), new byte[] {'k', 'e', 'y', '-', (byte) 0xc3, 0})
            .send(admin, topic, 1);
    }

    /** No time (-1), 0, the second day of 1970 and now in one batch, in several orders, plain and compressed; times that fall. */
    private void times(String topic) throws Exception {
        long now = System.currentTimeMillis();
        long[][] orders = {{-1, 0, 86_400_000, now}, {now, 86_400_000, 0, -1}, {0, -1}, {-1, -1}, {-1}, {0}, {now, PAST, now - 1, PAST - 1}};
        Compression[] codecs = {Compression.NONE, Compression.gzip().build(), Compression.zstd().build()};
        for (int partition = 0; partition < codecs.length; partition++) {
            for (long[] order : orders) {
                SimpleRecord[] records = new SimpleRecord[order.length];
                for (int i = 0; i < order.length; i++) {
                    records[i] = new SimpleRecord(order[i], text("key " + i), text("time " + order[i]));
                }
                Raw.of(codecs[partition], records).send(admin, topic, partition);
            }
        }
    }

    private void appendTime(String topic) throws Exception {
        sendAll(topic, 0, "none", 100);
        sendAll(topic, 1, "zstd", 100);
    }

    /** One codec each, in partition 5 snappy without snappy-java's framing, in the last all of them. */
    private void codecs(String topic) throws Exception {
        int partition = 0;
        SimpleRecord[] records = new SimpleRecord[50];
        for (int i = 0; i < records.length; i++) {
            records[i] = new SimpleRecord(System.currentTimeMillis(), text("key " + i), text("raw snappy, raw snappy, raw snappy " + i));
        }
        Raw rawSnappy = Raw.of(Compression.NONE, records).rawSnappy();
        for (CompressionType codec : CompressionType.values()) {
            sendAll(topic, partition++, codec.name, 200);
            sendAll(topic, 6, codec.name, 20);
            rawSnappy.send(admin, topic, 6);
        }
        rawSnappy.send(admin, topic, partition);
    }

    /** Records of 1 and 10 MB: 0 that do not compress, 1 that do. */
    private void large(String topic) throws Exception {
        for (int partition = 0; partition < 2; partition++) {
            try (KafkaProducer<byte[], byte[]> producer = producer(partition == 0 ? "none" : "zstd", null)) {
                for (int size : new int[] {10, MEGABYTE, 10 * MEGABYTE, 10, MEGABYTE}) {
                    byte[] value = new byte[size];
                    if (partition == 0) {
                        new java.util.Random(size).nextBytes(value);
                    }
                    flushed(producer, List.of(producer.send(new ProducerRecord<>(topic, partition, text("size " + size), value))));
                }
            }
        }
    }

    /** Batches of one record. */
    private void single(String topic) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer("none", null, ProducerConfig.BATCH_SIZE_CONFIG, "0")) {
            batch(producer, topic, 0, 0, 300, "alone");
        }
    }

    /** The log start inside a batch: 0 plain, 1 compressed; 2 has nothing left. */
    private void trimmed(String topic) throws Exception {
        SimpleRecord[] records = new SimpleRecord[100];
        for (int i = 0; i < records.length; i++) {
            records[i] = new SimpleRecord(System.currentTimeMillis(), text("key " + i), text("value " + i));
        }
        Map<TopicPartition, RecordsToDelete> before = new HashMap<>();
        int[] starts = {37, 99, 100};
        for (int partition = 0; partition < starts.length; partition++) {
            Raw.of(partition == 1 ? Compression.lz4().build() : Compression.NONE, records).send(admin, topic, partition);
            before.put(new TopicPartition(topic, partition), RecordsToDelete.beforeOffset(starts[partition]));
        }
        admin.deleteRecords(before).all().get();
    }

    /** Records in two of five partitions. */
    private void sparse(String topic) throws Exception {
        sendAll(topic, 1, "none", 10);
        sendAll(topic, 3, "lz4", 10);
    }

    private KafkaProducer<byte[], byte[]> producer(String codec, String transactionalId, String... more) {
        Properties properties = new Properties();
        properties.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, codec);
        properties.put(ProducerConfig.ACKS_CONFIG, "all");
        properties.put(ProducerConfig.BATCH_SIZE_CONFIG, 64 * 1024);
        // Nothing is sent before it is asked for: then what is flushed together is one batch.
        properties.put(ProducerConfig.LINGER_MS_CONFIG, 10_000);
        properties.put(ProducerConfig.MAX_REQUEST_SIZE_CONFIG, 12 * MEGABYTE);
        properties.put(ProducerConfig.BUFFER_MEMORY_CONFIG, 48L * MEGABYTE);
        properties.put(ProducerConfig.CLIENT_ID_CONFIG, "lab-nasty");
        if (transactionalId != null) {
            properties.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, transactionalId);
            properties.put(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, 900_000);
        }
        for (int i = 0; i < more.length; i += 2) {
            properties.put(more[i], more[i + 1]);
        }
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private String id(String name) {
        return prefix + "." + name;
    }

    private static void batch(KafkaProducer<byte[], byte[]> producer, String topic, int partition, int from, int to, String value) throws Exception {
        batch(producer, topic, partition, System.currentTimeMillis(), from, to, value);
    }

    /** Sends one batch with the keys {@code from} to {@code to}; without a value tombstones. */
    private static void batch(KafkaProducer<byte[], byte[]> producer, String topic, int partition, long time, int from, int to, String value) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int key = from; key < to; key++) {
            sent.add(producer.send(new ProducerRecord<>(topic, partition, time, text("key " + key), value == null ? null : text(value + " of " + key))));
        }
        flushed(producer, sent);
    }

    private static void flushed(KafkaProducer<byte[], byte[]> producer, List<Future<RecordMetadata>> sent) throws Exception {
        producer.flush();
        for (Future<RecordMetadata> each : sent) {
            each.get();
        }
    }

    private static void end(KafkaProducer<byte[], byte[]> producer, boolean commit) {
        if (commit) {
            producer.commitTransaction();
        } else {
            producer.abortTransaction();
        }
    }

    private void sendAll(String topic, int partition, String codec, int records) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(codec, null)) {
            batch(producer, topic, partition, 0, records, codec + ", " + codec + ", " + codec);
        }
    }

    private static Header header(String key, String value) {
        return new RecordHeader(key, value == null ? null : text(value));
    }

    private static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
