import java.io.PrintStream;
import java.util.Collection;
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
 * What a user may do with topics, groups and cluster.
 *
 * <pre>
 * clear     none; KIND is topic, group, cluster or transactional_id, OPERATION as in AclOperation
 * change --user U [--add KIND:NAME:OPERATION]... [--remove KIND:NAME:OPERATION]...     what is allowed to a user beside what is
 * </pre>
 *
 * Returns when the broker goes by them.
 */
public final class Acls {
    public static void main(String[] args) {
        Args.main(args, Acls::run);
    }

    static int run(String[] args, PrintStream out) throws Exception {
        Args options = new Args(args, 1, Set.of("bootstrap", "user", "add", "remove"), Set.of());
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("bootstrap"), "default.api.timeout.ms", 30_000))) {
            switch (args[0]) {
                case "clear" -> clear(admin);
                case "change" -> change(admin, options);
                default -> throw new IllegalArgumentException("unknown verb " + args[0]);
            }
        }
        return 0;
    }

    private static void clear(Admin admin) throws Exception {
        admin.deleteAcls(List.of(AclBindingFilter.ANY)).all().get();
        while (!there(admin).isEmpty()) {
            Thread.sleep(20);
        }
    }

    private static void change(Admin admin, Args options) throws Exception {
        String principal = "User:" + options.text("user");
        List<AclBinding> add = bindings(options, "add", principal);
        List<AclBinding> remove = bindings(options, "remove", principal);
        admin.deleteAcls(remove.stream().map(AclBinding::toFilter).toList()).all().get();
        admin.createAcls(add).all().get();
        while (true) {
            Collection<AclBinding> there = there(admin);
            if (there.containsAll(add) && remove.stream().noneMatch(there::contains)) {
                return;
            }
            Thread.sleep(20);
        }
    }

    private static Collection<AclBinding> there(Admin admin) throws Exception {
        return admin.describeAcls(AclBindingFilter.ANY).values().get();
    }

    private static List<AclBinding> bindings(Args options, String option, String principal) {
        return options.all(option).stream().map(text -> binding(text, principal)).toList();
    }

    private static AclBinding binding(String text, String principal) {
        String[] parts = text.split(":");
        ResourceType kind = ResourceType.fromString(parts[0].toUpperCase());
        return new AclBinding(new ResourcePattern(kind, parts[1], PatternType.LITERAL),
            new AccessControlEntry(principal, "*", AclOperation.valueOf(parts[2]), AclPermissionType.ALLOW));
    }
}
