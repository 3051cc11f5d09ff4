import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;

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
 * [--from-ms MS] [--until-ms MS] [--move SOURCE=TARGET]... [--by-key] [--provenance CLUSTER] [--times N]     see View
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
    private final View view;

    private Compare(Side source, Side target, boolean appendTimeAsCreate, View view) {
        this.source = source;
        this.target = target;
        this.view = view;
        this.appendTimeAsCreate = appendTimeAsCreate;
    }

    public static void main(String[] args) {
        Args.main(args, Compare::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 0, Set.of("source", "target", "archive", "run", "map", "isolation", "from-ms", "until-ms", "move", "provenance", "times"),
            Set.of("append-time-as-create", "json", "by-key"));
        String isolation = options.text("isolation", "read_uncommitted");
        if (options.all("map").isEmpty()) {
            throw new IllegalArgumentException("option --map SOURCE=TARGET is missing");
        }
        List<Map<String, Object>> topics = new ArrayList<>();
        try (Side source = new Cluster("source", options.text("source"), isolation);
            Side target = options.has("archive") ? new Archive(Path.of(options.text("archive")), options.text("run")) : new Cluster("target", options.text("target"), isolation)) {
            Compare compare = new Compare(source, target, options.has("append-time-as-create"), View.of(options));
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
        List<Side.Range> sourceRanges = source.ranges(sourceTopic);
        List<Side.Range> targetRanges = target.ranges(targetTopic);
        int sourcePartitions = sourceRanges.size();
        int targetPartitions = targetRanges.size();
        List<String> differences = new ArrayList<>();
        int expectedPartitions = view.partitions(sourcePartitions, targetPartitions);
        if (expectedPartitions != targetPartitions) {
            String expected = expectedPartitions == sourcePartitions ? "" : " (for which there should be " + expectedPartitions + ")";
            differences.add("partitions: source has " + sourcePartitions + expected + ", target has " + targetPartitions);
        }
        long records = 0;
        long targetRecords = 0;
        long bytes = 0;
        for (int partition = 0; partition < Math.max(expectedPartitions, targetPartitions); partition++) {
            View.Records left = view.records(source, sourceRanges, partition, expectedPartitions);
            Side.Reading right = partition < targetPartitions ? target.read(targetRanges.get(partition)) : Side.Reading.empty();
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
}
