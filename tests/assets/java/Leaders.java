import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;

/**
 * Where the replicas of a topic are, and which of them leads.
 *
 * <pre>
 * create --topic T --replicas 1:2 [--replicas 2:3]... [--config k=v]...     one --replicas for each partition, the preferred leader first
 * move --topic T --replicas 3:1 [--replicas ...]...                       moves the replicas and makes the preferred ones lead
 * show --topic T                                                          [{"leader":1,"inSync":[1,2]}]; leader -1 where there is none
 * </pre>
 */
public final class Leaders {
    public static void main(String[] args) {
        Args.main(args, Leaders::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 1, Set.of("bootstrap", "topic", "replicas", "config"), Set.of());
        String topic = options.text("topic");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap"), "default.api.timeout.ms", 30_000))) {
            switch (args[0]) {
                case "create" -> {
                    Map<Integer, List<Integer>> replicas = new HashMap<>();
                    options.all("replicas").forEach(list -> replicas.put(replicas.size(), brokers(list)));
                    admin.createTopics(List.of(new NewTopic(topic, replicas).configs(options.pairs("config")))).all().get();
                    while (!describe(admin, topic).map(found -> found.size() == replicas.size()).orElse(false)) {
                        Thread.sleep(20);
                    }
                }
                case "move" -> move(admin, topic, options.all("replicas"));
                case "show" -> {
                    List<Map<String, Object>> shown = new ArrayList<>();
                    for (TopicPartitionInfo partition : describe(admin, topic).orElse(List.of())) {
                        int leader = partition.leader() == null ? -1 : partition.leader().id();
                        shown.add(Map.of("leader", leader, "inSync", partition.isr().stream().map(node -> node.id()).sorted().toList()));
                    }
                    out.println(new ObjectMapper().writeValueAsString(shown));
                }
                default -> throw new IllegalArgumentException("unknown verb " + args[0]);
            }
        }
        return 0;
    }

    private static List<Integer> brokers(String list) {
        return Arrays.stream(list.split(":")).map(Integer::parseInt).toList();
    }

    private static void move(Admin admin, String topic, List<String> replicas) throws Exception {
        Map<TopicPartition, Optional<NewPartitionReassignment>> wanted = new HashMap<>();
        for (int partition = 0; partition < replicas.size(); partition++) {
            wanted.put(new TopicPartition(topic, partition), Optional.of(new NewPartitionReassignment(brokers(replicas.get(partition)))));
        }
        admin.alterPartitionReassignments(wanted).all().get();
        while (!admin.listPartitionReassignments(wanted.keySet()).reassignments().get().isEmpty()) {
            Thread.sleep(20);
        }
        // Those that lead already are answered with an error of their own, which is no failure.
        admin.electLeaders(ElectionType.PREFERRED, new HashSet<>(wanted.keySet())).partitions().get();
    }

    /** The partitions; empty while the broker that is asked has not heard of the topic. */
    private static Optional<List<TopicPartitionInfo>> describe(Admin admin, String topic) throws Exception {
        try {
            return Optional.of(admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions());
        } catch (ExecutionException error) {
            if (error.getCause() instanceof org.apache.kafka.common.errors.UnknownTopicOrPartitionException) {
                return Optional.empty();
            }
            throw error;
        }
    }
}
