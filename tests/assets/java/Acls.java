import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/**
 * What everybody may do with topics and cluster.
 *
 * <pre>
 * set [--allow KIND:NAME:OPERATION]... [--deny KIND:NAME:OPERATION]...     these and no others; KIND is topic, group or cluster, OPERATION as in AclOperation
 * </pre>
 *
 * Returns when the broker goes by them.
 */
public final class Acls {
    public static void main(String[] args) {
        Args.main(args, Acls::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 1, Set.of("bootstrap", "allow", "deny"), Set.of());
        if (!args[0].equals("set")) {
            throw new IllegalArgumentException("unknown verb " + args[0]);
        }
        List<AclBinding> wanted = new ArrayList<>();
        options.all("allow").forEach(text -> wanted.add(binding(text, AclPermissionType.ALLOW)));
        options.all("deny").forEach(text -> wanted.add(binding(text, AclPermissionType.DENY)));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap"), "default.api.timeout.ms", 30_000))) {
            admin.deleteAcls(List.of(AclBindingFilter.ANY)).all().get();
            admin.createAcls(wanted).all().get();
            while (!new HashSet<>(there(admin)).equals(new HashSet<>(wanted))) {
                Thread.sleep(20);
            }
        }
        return 0;
    }

    private static Collection<AclBinding> there(Admin admin) throws Exception {
        return admin.describeAcls(AclBindingFilter.ANY).values().get();
    }

    private static AclBinding binding(String text, AclPermissionType type) {
        String[] parts = text.split(":");
        ResourceType kind = ResourceType.fromString(parts[0].toUpperCase());
        return new AclBinding(new ResourcePattern(kind, parts[1], PatternType.LITERAL),
            new AccessControlEntry("User:*", "*", AclOperation.valueOf(parts[2]), type));
    }
}
