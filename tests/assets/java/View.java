import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.utils.Utils;

/**
 * What a target must have of a source, where a restore chose, moved or changed something: only some timestamps (both bounds included),
 * partitions under other numbers, records dealt out by their keys as Kafka's producer does it, headers that tell where a record came
 * from, everything several times one after another.
 */
record View(long fromMs, long untilMs, Map<Integer, Integer> moves, boolean byKey, String provenance, int times) {
    static View of(Args options) {
        Map<Integer, Integer> moves = new HashMap<>();
        options.pairs("move").forEach((from, to) -> moves.put(Integer.valueOf(from), Integer.valueOf(to)));
        return new View(
            options.number("from-ms", Long.MIN_VALUE),
            options.number("until-ms", Long.MAX_VALUE),
            moves,
            options.has("by-key"),
            options.has("provenance") ? options.text("provenance") : null,
            (int) options.number("times", 1));
    }

    /** Number of partitions that a target made for so many source partitions has; {@code existing} is what it has. */
    int partitions(int sources, int existing) {
        if (byKey) {
            return existing;
        }
        int most = 0;
        for (int source = 0; source < sources; source++) {
            most = Math.max(most, 1 + moves.getOrDefault(source, source));
        }
        return most;
    }

    /** The records of a target partition, in order. */
    Records records(Side side, List<Side.Range> sources, int target, int targets) {
        TreeMap<Integer, Side.Range> from = new TreeMap<>();
        for (int source = 0; source < sources.size(); source++) {
            if (byKey || moves.getOrDefault(source, source) == target) {
                from.put(source, sources.get(source));
            }
        }
        List<Map.Entry<Integer, Side.Range>> all = new ArrayList<>();
        for (int time = 0; time < times; time++) {
            all.addAll(from.entrySet());
        }
        return new Records(side, all.iterator(), target, targets);
    }

    private boolean takes(ConsumerRecord<byte[], byte[]> record, int source, int target, int targets) {
        if (record.timestamp() < fromMs || record.timestamp() > untilMs) {
            return false;
        }
        if (!byKey) {
            return true;
        }
        byte[] key = record.key();
        return (key == null ? source % targets : Utils.toPositive(Utils.murmur2(key)) % targets) == target;
    }

    private ConsumerRecord<byte[], byte[]> changed(ConsumerRecord<byte[], byte[]> record, int source) {
        if (provenance == null) {
            return record;
        }
        // The headers themselves, not copies: their keys may be no text.
        RecordHeaders headers = new RecordHeaders(record.headers());
        add(headers, "x-original-topic", record.topic());
        add(headers, "x-original-partition", Integer.toString(source));
        add(headers, "x-original-offset", Long.toString(record.offset()));
        add(headers, "x-original-timestamp", Long.toString(record.timestamp()));
        add(headers, "x-source-cluster", provenance);
        return new ConsumerRecord<>(record.topic(), record.partition(), record.offset(), record.timestamp(), record.timestampType(), record.serializedKeySize(),
            record.serializedValueSize(), record.key(), record.value(), headers, Optional.empty());
    }

    private static void add(RecordHeaders headers, String name, String value) {
        headers.add(new RecordHeader(ByteBuffer.wrap(name.getBytes(StandardCharsets.UTF_8)), ByteBuffer.wrap(value.getBytes(StandardCharsets.UTF_8))));
    }

    /** Records of some source partitions, one after another. */
    final class Records {
        private final Side side;
        private final Iterator<Map.Entry<Integer, Side.Range>> sources;
        private final int target;
        private final int targets;
        private int source;
        private Side.Reading current = Side.Reading.empty();

        private Records(Side side, Iterator<Map.Entry<Integer, Side.Range>> sources, int target, int targets) {
            this.side = side;
            this.sources = sources;
            this.target = target;
            this.targets = targets;
        }

        ConsumerRecord<byte[], byte[]> next() throws Exception {
            while (true) {
                ConsumerRecord<byte[], byte[]> record = current.next();
                if (record != null && takes(record, source, target, targets)) {
                    return changed(record, source);
                }
                if (record == null) {
                    if (!sources.hasNext()) {
                        return null;
                    }
                    Map.Entry<Integer, Side.Range> next = sources.next();
                    source = next.getKey();
                    current = side.read(next.getValue());
                }
            }
        }
    }
}
