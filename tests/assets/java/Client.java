import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Kafka's own clients with any settings, on partition 0 of a topic; how the cluster answers is the result.
 *
 * <pre>
 * write --topic T --value V --config k=v...       {"offset":12} or {"error":"..."}
 * read --topic T --offset N --config k=v...       {"value":"..."} or {"error":"..."}
 * stay --topic T --seconds N --config k=v...      reads on: {"records":3,"connections":2,"reauthentications":1} or {"error":"..."}
 * </pre>
 */
public final class Client {
    private static final Duration LIMIT = Duration.ofSeconds(10);

    public static void main(String[] args) {
        Args.main(args, Client::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 1, Set.of("topic", "value", "offset", "seconds", "config"), Set.of());
        Map<String, Object> config = new HashMap<>(options.pairs("config"));
        TopicPartition place = new TopicPartition(options.text("topic"), 0);
        Map<String, Object> answer = new TreeMap<>();
        try {
            switch (args[0]) {
                case "write" -> answer.put("offset", write(config, place, options.text("value").getBytes(StandardCharsets.UTF_8)));
                case "read" -> answer.put("value", read(config, place, options.number("offset", 0)));
                case "stay" -> stay(config, place, Duration.ofSeconds(options.number("seconds", 1)), answer);
                default -> throw new IllegalArgumentException("unknown verb " + args[0]);
            }
        } catch (ExecutionException failure) {
            answer.put("error", words(failure.getCause()));
        } catch (RuntimeException failure) {
            answer.put("error", words(failure));
        }
        out.println(new ObjectMapper().writeValueAsString(answer));
        return 0;
    }

    /** A failure and its causes, without the stack traces that Kafka puts into the text of some. */
    private static String words(Throwable failure) {
        return Args.chain(failure).lines().filter(line -> !line.startsWith("\t")).collect(Collectors.joining(" "));
    }

    private static long write(Map<String, Object> config, TopicPartition place, byte[] value) throws Exception {
        int limit = (int) LIMIT.toMillis();
        config.put("max.block.ms", limit);
        config.put("request.timeout.ms", limit / 2);
        config.put("delivery.timeout.ms", limit);
        config.put("linger.ms", 0);
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
        try {
            return producer.send(new ProducerRecord<>(place.topic(), place.partition(), null, value)).get().offset();
        } finally {
            producer.close(Duration.ZERO);
        }
    }

    private static KafkaConsumer<byte[], byte[]> reader(Map<String, Object> config, TopicPartition place, long offset) {
        config.put("default.api.timeout.ms", (int) LIMIT.toMillis());
        config.put("request.timeout.ms", (int) LIMIT.toMillis() / 2);
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.assign(List.of(place));
        consumer.seek(place, offset);
        return consumer;
    }

    private static String read(Map<String, Object> config, TopicPartition place, long offset) {
        long end = System.nanoTime() + LIMIT.toNanos();
        try (KafkaConsumer<byte[], byte[]> consumer = reader(config, place, offset)) {
            while (System.nanoTime() < end) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    return new String(record.value(), StandardCharsets.UTF_8);
                }
            }
        }
        throw new IllegalStateException("no record in " + LIMIT.toSeconds() + " s");
    }

    private static void stay(Map<String, Object> config, TopicPartition place, Duration time, Map<String, Object> answer) {
        long end = System.nanoTime() + time.toNanos();
        long records = 0;
        try (KafkaConsumer<byte[], byte[]> consumer = reader(config, place, 0)) {
            while (System.nanoTime() < end) {
                ConsumerRecords<byte[], byte[]> some = consumer.poll(Duration.ofMillis(100));
                records += some.count();
            }
            answer.put("records", records);
            answer.put("connections", metric(consumer, "connection-creation-total"));
            answer.put("reauthentications", metric(consumer, "successful-reauthentication-total"));
        }
    }

    private static long metric(KafkaConsumer<byte[], byte[]> consumer, String name) {
        return consumer.metrics().values().stream()
            .filter(it -> it.metricName().name().equals(name) && it.metricName().group().equals("consumer-metrics"))
            .mapToLong(it -> ((Number) it.metricValue()).longValue()).sum();
    }
}
