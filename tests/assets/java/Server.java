import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.Channels;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/**
 * Runs the programs of this folder on request, so that a test does not wait for a new JVM each time.
 *
 * <p>Started with the path of a Unix socket (found from any network namespace). One request a connection:
 * {@code {"program":"Produce","args":[...]}} up to the end of input; the answer is {@code {"code":0,"out":"...","error":"..."}}.
 */
public final class Server {
    private static final Map<String, Args.Program> PROGRAMS = Map.of(
        "Acls", Acls::run, "Produce", Produce::run, "Compare", Compare::run, "Topics", Topics::run, "Leaders", Leaders::run, "Groups", Groups::run,
        "Nasty", Nasty::run, "Seeded", Seeded::run, "Users", Users::run, "Client", Client::run);
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        Path path = Path.of(args[0]);
        Files.deleteIfExists(path);
        try (ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            server.bind(UnixDomainSocketAddress.of(path));
            while (true) {
                SocketChannel client = server.accept();
                new Thread(() -> serve(client), "request").start();
            }
        }
    }

    private static void serve(SocketChannel client) {
        try (client; InputStream in = Channels.newInputStream(client); OutputStream out = Channels.newOutputStream(client)) {
            JsonNode request = JSON.readTree(in.readAllBytes());
            out.write(JSON.writeValueAsBytes(answer(request)));
        } catch (Exception failure) {
            // The caller is gone.
            System.err.println("request failed: " + Args.chain(failure));
        }
    }

    private static Map<String, Object> answer(JsonNode request) {
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream out = new PrintStream(printed, true, StandardCharsets.UTF_8);
        int code;
        String error = "";
        try {
            Args.Program program = PROGRAMS.get(request.get("program").asText());
            code = program.run(JSON.convertValue(request.get("args"), String[].class), out);
        } catch (Throwable failure) {
            code = 2;
            error = Args.chain(failure);
        }
        return Map.of("code", code, "out", printed.toString(StandardCharsets.UTF_8), "error", error);
    }
}
