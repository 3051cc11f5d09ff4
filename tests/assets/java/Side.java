import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;

/** Where records are read from. */
interface Side extends AutoCloseable {
    /** What is in each partition of a topic now. */
    List<Range> ranges(String topic) throws Exception;

    /** Starts to read a partition; must be read to its end before the next begins. */
    Reading read(Range range);

    @Override
    void close();

    /** The offsets of a partition that are compared; the end is the next offset. */
    record Range(TopicPartition partition, long start, long end) {}

    /** Hands out the records of a partition in order, some at a time. */
    interface Feed {
        void run(BlockingQueue<List<ConsumerRecord<byte[], byte[]>>> records) throws Exception;
    }

    /** The records of one partition, a few polls ahead of the comparison. */
    final class Reading {
        static final List<ConsumerRecord<byte[], byte[]>> END = new ArrayList<>();

        final BlockingQueue<List<ConsumerRecord<byte[], byte[]>>> queue = new ArrayBlockingQueue<>(4);
        volatile Throwable failure;
        private Thread thread;
        private Iterator<ConsumerRecord<byte[], byte[]>> current = END.iterator();
        private boolean ended;

        static Reading empty() {
            Reading reading = new Reading();
            reading.ended = true;
            return reading;
        }

        /** Reads in a thread of its own, so that both sides are fetched and decoded at once. */
        static Reading start(String name, Feed feed) {
            Reading reading = new Reading();
            reading.thread = new Thread(() -> {
                try {
                    feed.run(reading.queue);
                    reading.queue.put(END);
                } catch (Throwable failure) {
                    reading.failure = failure;
                    reading.queue.clear();
                    reading.queue.offer(END);
                }
            }, name);
            reading.thread.setDaemon(true);
            reading.thread.start();
            return reading;
        }

        ConsumerRecord<byte[], byte[]> next() throws Exception {
            while (!current.hasNext()) {
                if (ended) {
                    return null;
                }
                List<ConsumerRecord<byte[], byte[]>> records = queue.take();
                if (failure != null) {
                    throw new IllegalStateException("reading failed", failure);
                }
                if (records == END) {
                    // The consumer belongs to one thread at a time.
                    thread.join();
                    ended = true;
                    return null;
                }
                current = records.iterator();
            }
            return current.next();
        }
    }
}
