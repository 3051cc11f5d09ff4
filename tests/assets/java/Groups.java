import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;

/**
 * What consumer groups have committed.
 *
 * <pre>
 * commit --offset JSON [--offset JSON]...     commits, as one who is no member
 * show --group G [--group G]...               all that these groups have committed
 * </pre>
 *
 * An offset is {@code {"group":"g","topic":"t","partition":0,"offset":7,"leaderEpoch":0,"metadata":""}}; leaderEpoch is null where there is none.
 */
public final class Groups {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) {
        Args.main(args, Groups::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 1, Set.of("bootstrap", "offset", "group"), Set.of());
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap"), "default.api.timeout.ms", 60_000))) {
            switch (args[0]) {
                case "commit" -> commit(admin, options.all("offset"));
                case "show" -> out.println(JSON.writeValueAsString(show(admin, options.all("group"))));
                default -> throw new IllegalArgumentException("unknown verb " + args[0]);
            }
        }
        return 0;
    }

    private static void commit(Admin admin, List<String> offsets) throws Exception {
        Map<String, Map<TopicPartition, OffsetAndMetadata>> groups = new HashMap<>();
        for (String text : offsets) {
            JsonNode one = JSON.readTree(text);
            JsonNode epoch = one.get("leaderEpoch");
            Optional<Integer> leaderEpoch = epoch.isNull() ? Optional.empty() : Optional.of(epoch.asInt());
            groups.computeIfAbsent(one.get("group").asText(), group -> new HashMap<>()).put(
                new TopicPartition(one.get("topic").asText(), one.get("partition").asInt()),
                new OffsetAndMetadata(one.get("offset").asLong(), leaderEpoch, one.get("metadata").asText()));
        }
        List<KafkaFuture<Void>> committed = new ArrayList<>();
        groups.forEach((group, of) -> committed.add(admin.alterConsumerGroupOffsets(group, of).all()));
        for (KafkaFuture<Void> one : committed) {
            one.get();
        }
    }

    private static List<Map<String, Object>> show(Admin admin, List<String> groups) throws Exception {
        Map<String, ListConsumerGroupOffsetsSpec> asked = new HashMap<>();
        groups.forEach(group -> asked.put(group, new ListConsumerGroupOffsetsSpec()));
        List<Map<String, Object>> shown = new ArrayList<>();
        admin.listConsumerGroupOffsets(asked).all().get().forEach((group, offsets) -> offsets.forEach((place, committed) -> {
            if (committed == null) {
                return;
            }
            Map<String, Object> one = new LinkedHashMap<>();
            one.put("group", group);
            one.put("topic", place.topic());
            one.put("partition", place.partition());
            one.put("offset", committed.offset());
            one.put("leaderEpoch", committed.leaderEpoch().orElse(null));
            one.put("metadata", committed.metadata());
            shown.add(one);
        }));
        return shown;
    }
}
