import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.github.luben.zstd.ZstdInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.utils.Utils;

/** What one run pinned in an archive: its manifest and topic parts tell the segments, Kafka's own classes read them. */
final class Archive implements Side {
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
