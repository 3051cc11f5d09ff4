import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Fills a topic with Kafka's own producer. Record i is a function of the seed and i alone; it goes to partition i % partitions.
 *
 * <p>Every n-th key or value is null if asked; records have 0 to n headers, among them repeated names, and null and empty values.
 * With {@code --transactional}, records are written in transactions, every n-th of which is aborted. Prints one line of JSON.
 */
public final class Produce {
    private static final String[] WORDS = {
        "order", "payment", "customer", "shipment", "invoice", "warehouse", "delivered", "pending", "returned", "euro", "amount", "country", "street", "berlin", "lisbon", "express",
    };
    private static final byte[][] PIECES = new byte[WORDS.length][];
    private static final byte[] HEX = "0123456789abcdef".getBytes(StandardCharsets.US_ASCII);

    static {
        for (int i = 0; i < WORDS.length; i++) {
            PIECES[i] = ("\"" + WORDS[i] + "\":\"" + WORDS[(i * 7 + 3) % WORDS.length] + "-").getBytes(StandardCharsets.US_ASCII);
        }
    }

    public static void main(String[] args) {
        Args.main(args, Produce::run);
    }

    static int run(String[] line, PrintStream out) throws Exception {
        Args args = new Args(line, 0,
            Set.of("bootstrap", "topic", "partitions", "records", "first", "size", "compression", "seed", "headers", "null-keys-every", "null-values-every", "timestamps",
                "transactional", "transaction-records", "abort-every", "replication", "config", "producer-config"),
            Set.of("create"));
        String topic = args.text("topic");
        int partitions = (int) args.number("partitions", 1);
        long first = args.number("first", 0);
        long records = args.number("records", 1000);
        int size = (int) args.number("size", 1024);
        long seed = args.number("seed", 1);
        int headers = (int) args.number("headers", 0);
        long nullKeys = args.number("null-keys-every", 0);
        long nullValues = args.number("null-values-every", 0);
        long abortEvery = args.number("abort-every", 0);
        long transactionRecords = args.number("transaction-records", 1000);
        boolean transactional = args.has("transactional");
        if (abortEvery > 0 && !transactional) {
            throw new IllegalArgumentException("--abort-every needs --transactional");
        }
        // "now", or "base+step" in milliseconds.
        String[] times = args.text("timestamps", "now").split("\\+");
        boolean now = times[0].equals("now");
        long base = now ? 0 : Long.parseLong(times[0]);
        long step = times.length > 1 ? Long.parseLong(times[1]) : 0;

        if (args.has("create")) {
            create(args, topic, partitions);
        }
        Properties properties = new Properties();
        properties.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, args.text("bootstrap"));
        properties.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, args.text("compression", "none"));
        properties.put(ProducerConfig.BATCH_SIZE_CONFIG, 128 * 1024);
        properties.put(ProducerConfig.LINGER_MS_CONFIG, 20);
        properties.put(ProducerConfig.ACKS_CONFIG, "all");
        properties.put(ProducerConfig.MAX_BLOCK_MS_CONFIG, 30_000);
        properties.put(ProducerConfig.CLIENT_ID_CONFIG, "lab-produce");
        if (transactional) {
            properties.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, args.text("transactional"));
        }
        properties.putAll(args.pairs("producer-config"));

        long start = System.nanoTime();
        long bytes = 0;
        long committed = 0;
        long aborted = 0;
        AtomicReference<Exception> failure = new AtomicReference<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer())) {
            if (transactional) {
                producer.initTransactions();
            }
            long inTransaction = 0;
            long transactions = 0;
            for (long i = first; i < first + records; i++) {
                if (failure.get() != null) {
                    throw failure.get();
                }
                if (transactional && inTransaction == 0) {
                    producer.beginTransaction();
                }
                long random = mix(seed * 0x9E3779B97F4A7C15L + i);
                byte[] key = nullKeys > 0 && i % nullKeys == nullKeys - 1 ? null : ("key-" + Long.toHexString(random & 0xffffff)).getBytes(StandardCharsets.US_ASCII);
                byte[] value = nullValues > 0 && i % nullValues == nullValues - 1 ? null : value(i, random, size);
                Long timestamp = now ? null : base + step * i;
                bytes += (key == null ? 0 : key.length) + (value == null ? 0 : value.length);
                producer.send(new ProducerRecord<>(topic, (int) (i % partitions), timestamp, key, value, headers(random, headers)), (metadata, error) -> {
                    if (error != null) {
                        failure.compareAndSet(null, error);
                    }
                });
                inTransaction++;
                if (transactional && (inTransaction == transactionRecords || i == first + records - 1)) {
                    transactions++;
                    if (abortEvery > 0 && transactions % abortEvery == 0) {
                        // Without the flush the producer would drop what it has not sent, and nothing aborted would reach the log.
                        producer.flush();
                        producer.abortTransaction();
                        aborted += inTransaction;
                    } else {
                        producer.commitTransaction();
                        committed += inTransaction;
                    }
                    inTransaction = 0;
                }
            }
            producer.flush();
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        if (!transactional) {
            committed = records;
        }
        out.printf("{\"topic\":\"%s\",\"partitions\":%d,\"records\":%d,\"aborted\":%d,\"bytes\":%d,\"seconds\":%.3f}%n",
            topic, partitions, committed, aborted, bytes, (System.nanoTime() - start) / 1e9);
        return 0;
    }

    private static void create(Args args, String topic, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.text("bootstrap")))) {
            Optional<Short> replication = args.has("replication") ? Optional.of((short) args.number("replication", 1)) : Optional.empty();
            Topics.create(admin, topic, partitions, replication, args.pairs("config"));
        }
    }

    /** The finalizer of SplitMix64: every bit of the result depends on every bit of x. */
    private static long mix(long x) {
        x = (x ^ (x >>> 30)) * 0xBF58476D1CE4E5B9L;
        x = (x ^ (x >>> 27)) * 0x94D049BB133111EBL;
        return x ^ (x >>> 31);
    }

    /** Text like JSON, of size - 12.5 % to size + 12.5 % bytes, that compresses to about a third. */
    private static byte[] value(long index, long random, int size) {
        int length = size < 8 ? size : size - size / 8 + (int) ((random >>> 32) % (size / 4 + 1));
        byte[] value = new byte[length];
        byte[] head = ("{\"id\":" + index + ",").getBytes(StandardCharsets.US_ASCII);
        int at = Math.min(head.length, length);
        System.arraycopy(head, 0, value, 0, at);
        long state = random;
        while (at < length) {
            state = mix(state + 0x9E3779B97F4A7C15L);
            byte[] piece = PIECES[(int) (state & 15)];
            int fits = Math.min(piece.length, length - at);
            System.arraycopy(piece, 0, value, at, fits);
            at += fits;
            for (int digit = 0; digit < 12 && at < length; digit++) {
                value[at++] = HEX[(int) (state >>> (4 + 4 * digit)) & 15];
            }
            if (at < length) {
                value[at++] = '"';
            }
            if (at < length) {
                value[at++] = at >= length ? (byte) '}' : (byte) ',';
            }
        }
        return value;
    }

    private static List<Header> headers(long random, int most) {
        if (most == 0) {
            return List.of();
        }
        int count = (int) ((random >>> 16 & 0xffff) % (most + 1));
        List<Header> headers = new ArrayList<>(count);
        for (int i = 0; i < count; i++) {
            int kind = (int) (random >>> (4 * i % 48)) & 7;
            headers.add(switch (kind) {
                case 0 -> new RecordHeader("trace", (byte[]) null);
                case 1 -> new RecordHeader("trace", new byte[0]);
                case 2 -> new RecordHeader("", new byte[] {(byte) 0xff, 0, (byte) i});
                case 3 -> new RecordHeader("größe", Long.toString(random & 0xff).getBytes(StandardCharsets.US_ASCII));
                default -> new RecordHeader("trace", Long.toHexString(random + i).getBytes(StandardCharsets.US_ASCII));
            });
        }
        return headers;
    }
}
