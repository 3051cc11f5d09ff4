import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Consumer;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.SimpleRecord;

/**
 * What {@link Compare} is itself tested by: the topic {@code PREFIX.original}, and beside it one copy for each thing that a copy can get
 * wrong, wrong in that and nothing else; and {@code PREFIX.same}, in which nothing is. Topics of that prefix from before are removed.
 * Prints the names as a JSON list. Options: {@code --bootstrap B --prefix P}.
 */
public final class Seeded {
    private static final long TIME = System.currentTimeMillis();
    /** Two header keys of one length that are not UTF-8, and look the same as text. */
    private static final byte[][] BINARY = {{'x', (byte) 0xff}, {'x', (byte) 0xfe}};

    private static final List<Header> HEADERS = List.of(
        new RecordHeader("a", text("1")), new RecordHeader("b", text("1")), new RecordHeader("a", text("1")), new RecordHeader("null", (byte[]) null), new RecordHeader("@@", text("binary")));
    private static final Map<String, Consumer<List<SimpleRecord>>> CHANGES = new LinkedHashMap<>();

    static {
        CHANGES.put("original", records -> { });
        CHANGES.put("same", records -> { });
        CHANGES.put("key", change(4, it -> record(it.timestamp(), text("other"), text("value 4"), it.headers())));
        CHANGES.put("key-empty-for-null", change(1, it -> record(it.timestamp(), new byte[0], text("value 1"), it.headers())));
        CHANGES.put("key-null-for-empty", change(2, it -> record(it.timestamp(), null, text("value 2"), it.headers())));
        CHANGES.put("value", change(4, it -> record(it.timestamp(), text("key 4"), text("value 5"), it.headers())));
        CHANGES.put("value-empty-for-null", change(5, it -> record(it.timestamp(), text("key 5"), new byte[0], it.headers())));
        CHANGES.put("value-null-for-empty", change(6, it -> record(it.timestamp(), text("key 6"), null, it.headers())));
        CHANGES.put("timestamp", change(4, it -> record(it.timestamp() + 1, text("key 4"), text("value 4"), it.headers())));
        CHANGES.put("header-order", headers(all -> Collections.swap(all, 0, 1)));
        CHANGES.put("header-duplicate-dropped", headers(all -> all.remove(2)));
        CHANGES.put("header-added", headers(all -> all.add(new RecordHeader("more", text("1")))));
        CHANGES.put("header-value", headers(all -> all.set(0, new RecordHeader("a", text("2")))));
        CHANGES.put("header-empty-for-null", headers(all -> all.set(3, new RecordHeader("null", new byte[0]))));
        CHANGES.put("header-key", headers(all -> all.set(4, new RecordHeader("##", text("binary")))));
        CHANGES.put("pair-swapped", records -> Collections.swap(records, 7, 8));
        CHANGES.put("record-missing", records -> records.remove(7));
        CHANGES.put("last-missing", records -> records.remove(records.size() - 1));
        CHANGES.put("record-doubled", records -> records.add(8, records.get(7)));
    }

    public static void main(String[] args) {
        Args.main(args, Seeded::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 0, Set.of("bootstrap", "prefix"), Set.of());
        String prefix = options.text("prefix");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap")))) {
            Topics.delete(admin, admin.listTopics().names().get().stream().filter(name -> name.startsWith(prefix + ".")).toList());
            List<String> names = CHANGES.keySet().stream().map(change -> prefix + "." + change).toList();
            Topics.create(admin, names.stream().map(name -> new NewTopic(name, Optional.of(1), Optional.empty())).toList());
            for (Map.Entry<String, Consumer<List<SimpleRecord>>> change : CHANGES.entrySet()) {
                List<SimpleRecord> records = original();
                change.getValue().accept(records);
                Raw.of(Compression.NONE, records.toArray(SimpleRecord[]::new))
                    .replacing(text("@@"), BINARY[0])
                    .replacing(text("##"), BINARY[1])
                    .send(admin, prefix + "." + change.getKey(), 0);
            }
            out.println(new ObjectMapper().writeValueAsString(names));
        }
        return 0;
    }

    /** Ten records: the second without a key, the third with an empty one, the same of values for the sixth and seventh, headers in the fourth. */
    private static List<SimpleRecord> original() {
        List<SimpleRecord> records = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            byte[] key = i == 1 ? null : text(i == 2 ? "" : "key " + i);
            byte[] value = i == 5 ? null : text(i == 6 ? "" : "value " + i);
            records.add(record(TIME + i, key, value, i == 3 ? HEADERS.toArray(Header[]::new) : new Header[0]));
        }
        return records;
    }

    private interface Change {
        SimpleRecord of(SimpleRecord original);
    }

    private static Consumer<List<SimpleRecord>> change(int index, Change change) {
        return records -> records.set(index, change.of(records.get(index)));
    }

    private static Consumer<List<SimpleRecord>> headers(Consumer<List<Header>> change) {
        List<Header> headers = new ArrayList<>(HEADERS);
        change.accept(headers);
        return change(3, it -> record(it.timestamp(), text("key 3"), text("value 3"), headers.toArray(Header[]::new)));
    }

    private static SimpleRecord record(long time, byte[] key, byte[] value, Header[] headers) {
        return new SimpleRecord(time, key, value, headers);
    }

    private static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
