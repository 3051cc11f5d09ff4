import java.io.PrintStream;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Command line options of the form {@code --name value} (repeatable) or, for those named as flags, {@code --name}. */
final class Args {
    private final Map<String, List<String>> values = new LinkedHashMap<>();

    Args(String[] args, int from, Set<String> options, Set<String> flags) {
        for (int i = from; i < args.length; i++) {
            String name = args[i].startsWith("--") ? args[i].substring(2) : "";
            if (flags.contains(name)) {
                values.computeIfAbsent(name, n -> new ArrayList<>()).add("");
            } else if (options.contains(name) && i + 1 < args.length) {
                values.computeIfAbsent(name, n -> new ArrayList<>()).add(args[++i]);
            } else {
                throw new IllegalArgumentException("unknown option or missing value: " + args[i]);
            }
        }
    }

    boolean has(String name) {
        return values.containsKey(name);
    }

    List<String> all(String name) {
        return values.getOrDefault(name, List.of());
    }

    String text(String name) {
        if (!has(name)) {
            throw new IllegalArgumentException("option --" + name + " is missing");
        }
        return all(name).get(0);
    }

    String text(String name, String otherwise) {
        return has(name) ? text(name) : otherwise;
    }

    long number(String name, long otherwise) {
        return has(name) ? Long.parseLong(text(name)) : otherwise;
    }

    /** The values of a repeatable option {@code --name key=value}. */
    Map<String, String> pairs(String name) {
        Map<String, String> pairs = new LinkedHashMap<>();
        for (String pair : all(name)) {
            int at = pair.indexOf('=');
            if (at < 1) {
                throw new IllegalArgumentException("--" + name + " wants key=value, not " + pair);
            }
            pairs.put(pair.substring(0, at), pair.substring(at + 1));
        }
        return pairs;
    }

    /** Runs a program to the end of this process; 2 stands for a failure that is not an answer. */
    static void main(String[] args, Program program) {
        int code;
        try {
            code = program.run(args, System.out);
        } catch (Throwable failure) {
            System.err.println("error: " + chain(failure));
            code = 2;
        }
        System.out.flush();
        System.exit(code);
    }

    /** A failure and its causes. */
    static String chain(Throwable failure) {
        StringBuilder text = new StringBuilder(failure.toString());
        for (Throwable cause = failure.getCause(); cause != null; cause = cause.getCause()) {
            text.append(": ").append(cause);
        }
        return text.toString();
    }

    /** A command line program that may also run in a {@link Server}: it ends by returning its exit status. */
    interface Program {
        int run(String[] args, PrintStream out) throws Exception;
    }
}
