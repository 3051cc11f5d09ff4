import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/**
 * What tests need of Kafka's admin client, with JSON as output.
 *
 * <pre>
 * create --topic T --partitions N [--replication R] [--config k=v]...
 * delete --topic T...          deletes topics and waits until they are gone
 * list                         ["a","b"], without internal topics
 * offsets --topic T            [{"partition":0,"start":0,"end":12}]; the end is the high watermark
 * configs --topic T            {"retention.ms":"..."} of all settings that are set on the topic itself
 * alter --topic T --config k=v...
 * grow --topic T --partitions N
 * delete-records --topic T --before P=OFFSET...
 * </pre>
 */
public final class Topics {
    public static void main(String[] args) {
        Args.main(args, Topics::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        if (args.length == 0) {
            throw new IllegalArgumentException("a verb is missing: create, delete, list, offsets, configs, alter, grow, delete-records");
        }
        Args options = new Args(args, 1, Set.of("bootstrap", "topic", "partitions", "replication", "config", "before"), Set.of());
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap"), "default.api.timeout.ms", 30_000))) {
            Object result = run(admin, args[0], options);
            if (result != null) {
                out.println(new ObjectMapper().writeValueAsString(result));
            }
        }
        return 0;
    }

    private static Object run(Admin admin, String verb, Args options) throws Exception {
        switch (verb) {
            case "create" -> {
                Optional<Short> replication = options.has("replication") ? Optional.of((short) options.number("replication", 1)) : Optional.empty();
                create(admin, options.text("topic"), (int) options.number("partitions", 1), replication, options.pairs("config"));
                return null;
            }
            case "delete" -> {
                delete(admin, options.all("topic"));
                return null;
            }
            case "list" -> {
                return new TreeSet<>(admin.listTopics().names().get());
            }
            case "offsets" -> {
                return offsets(admin, options.text("topic"));
            }
            case "configs" -> {
                ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, options.text("topic"));
                Map<String, String> set = new TreeMap<>();
                for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
                    if (entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG) {
                        set.put(entry.name(), entry.value());
                    }
                }
                return set;
            }
            case "alter" -> {
                List<AlterConfigOp> changes = new ArrayList<>();
                options.pairs("config").forEach((name, value) -> changes.add(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
                admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, options.text("topic")), changes)).all().get();
                return null;
            }
            case "grow" -> {
                admin.createPartitions(Map.of(options.text("topic"), NewPartitions.increaseTo((int) options.number("partitions", 1)))).all().get();
                return null;
            }
            case "delete-records" -> {
                Map<TopicPartition, RecordsToDelete> before = new HashMap<>();
                options.pairs("before").forEach((partition, offset) ->
                    before.put(new TopicPartition(options.text("topic"), Integer.parseInt(partition)), RecordsToDelete.beforeOffset(Long.parseLong(offset))));
                admin.deleteRecords(before).all().get();
                return null;
            }
            default -> throw new IllegalArgumentException("unknown verb " + verb);
        }
    }

    /** Deletes topics and waits until they are gone. */
    static void delete(Admin admin, List<String> topics) throws Exception {
        admin.deleteTopics(topics).all().get();
        while (admin.listTopics().names().get().stream().anyMatch(topics::contains)) {
            Thread.sleep(20);
        }
    }

    /** Creates a topic and waits until the leader of each partition serves it. */
    static void create(Admin admin, String topic, int partitions, Optional<Short> replication, Map<String, String> config) throws Exception {
        create(admin, List.of(new NewTopic(topic, Optional.of(partitions), replication).configs(config)));
    }

    /** Creates topics with a given number of partitions and waits until the leader of each partition serves it. */
    static void create(Admin admin, List<NewTopic> topics) throws Exception {
        admin.createTopics(topics).all().get();
        // A leader that does not know the partition yet refuses a producer's first batch and may take its second: then it refuses the
        // first for ever, as out of order. So ask each leader for its end until it answers. The client repeats that while a leader is
        // unknown, but gives up at once when the broker that it asks for metadata has not heard of the topic (since Kafka 4.0).
        Map<TopicPartition, OffsetSpec> latest = new HashMap<>();
        for (NewTopic topic : topics) {
            for (int partition = 0; partition < topic.numPartitions(); partition++) {
                latest.put(new TopicPartition(topic.name(), partition), OffsetSpec.latest());
            }
        }
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (true) {
            try {
                admin.listOffsets(latest).all().get();
                return;
            } catch (ExecutionException error) {
                if (!(error.getCause() instanceof UnknownTopicOrPartitionException) || System.nanoTime() > deadline) {
                    throw error;
                }
                Thread.sleep(20);
            }
        }
    }

    private static List<Map<String, Long>> offsets(Admin admin, String topic) throws Exception {
        Map<TopicPartition, OffsetSpec> earliest = new HashMap<>();
        Map<TopicPartition, OffsetSpec> latest = new HashMap<>();
        for (TopicPartitionInfo partition : admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions()) {
            earliest.put(new TopicPartition(topic, partition.partition()), OffsetSpec.earliest());
            latest.put(new TopicPartition(topic, partition.partition()), OffsetSpec.latest());
        }
        Map<TopicPartition, ListOffsetsResultInfo> starts = admin.listOffsets(earliest).all().get();
        Map<TopicPartition, ListOffsetsResultInfo> ends = admin.listOffsets(latest).all().get();
        List<Map<String, Long>> offsets = new ArrayList<>();
        for (int partition = 0; partition < starts.size(); partition++) {
            TopicPartition key = new TopicPartition(topic, partition);
            offsets.add(new TreeMap<>(Map.of("partition", (long) partition, "start", starts.get(key).offset(), "end", ends.get(key).offset())));
        }
        return offsets;
    }
}
