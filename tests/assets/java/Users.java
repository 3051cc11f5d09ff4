import java.io.PrintStream;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialDeletion;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.errors.SaslAuthenticationException;

/**
 * Passwords of a cluster's users.
 *
 * <pre>
 * scram --user U --mechanism M --password P --login HOST:PORT...    sets it; returns when each of these SASL_PLAINTEXT listeners takes it
 * unscram --user U --mechanism M --login HOST:PORT...               removes it; returns when each of them refuses the user
 * </pre>
 */
public final class Users {
    private static final int ITERATIONS = 4096;

    public static void main(String[] args) {
        Args.main(args, Users::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 1, Set.of("bootstrap", "user", "mechanism", "password", "login"), Set.of());
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap"), "default.api.timeout.ms", 30_000))) {
            switch (args[0]) {
                case "scram" -> set(admin, options, options.text("password"));
                case "unscram" -> remove(admin, options);
                default -> throw new IllegalArgumentException("unknown verb " + args[0]);
            }
        }
        return 0;
    }

    private static void set(Admin admin, Args options, String password) throws Exception {
        ScramMechanism mechanism = ScramMechanism.fromMechanismName(options.text("mechanism"));
        ScramCredentialInfo info = new ScramCredentialInfo(mechanism, ITERATIONS);
        admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(options.text("user"), info, password))).all().get();
        wait(options, password, true);
    }

    private static void remove(Admin admin, Args options) throws Exception {
        // With a password that is known, the difference can be seen.
        String password = UUID.randomUUID().toString();
        set(admin, options, password);
        ScramMechanism mechanism = ScramMechanism.fromMechanismName(options.text("mechanism"));
        admin.alterUserScramCredentials(List.of(new UserScramCredentialDeletion(options.text("user"), mechanism))).all().get();
        wait(options, password, false);
    }

    private static void wait(Args options, String password, boolean wanted) throws Exception {
        for (String address : options.all("login")) {
            while (takes(address, options, password) != wanted) {
                Thread.sleep(20);
            }
        }
    }

    /** Whether the broker at this address, and no other, takes the password. */
    private static boolean takes(String address, Args options, String password) throws Exception {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", address);
        config.put("security.protocol", "SASL_PLAINTEXT");
        config.put("sasl.mechanism", options.text("mechanism"));
        config.put("sasl.jaas.config", "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"" + options.text("user")
            + "\" password=\"" + password + "\";");
        Admin admin = Admin.create(config);
        try {
            // The first request can only go to the broker that is named.
            admin.describeCluster().clusterId().get();
            return true;
        } catch (ExecutionException failure) {
            if (failure.getCause() instanceof SaslAuthenticationException) {
                return false;
            }
            throw failure;
        } finally {
            admin.close(Duration.ZERO);
        }
    }
}
