import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.zip.CRC32C;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.message.ProduceRequestData;
import org.apache.kafka.common.message.ProduceRequestData.PartitionProduceData;
import org.apache.kafka.common.message.ProduceRequestData.TopicProduceData;
import org.apache.kafka.common.message.ProduceRequestData.TopicProduceDataCollection;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.DefaultRecordBatch;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.requests.AbstractResponse;
import org.apache.kafka.common.requests.ProduceRequest;
import org.apache.kafka.common.requests.ProduceResponse;
import org.apache.kafka.common.requests.RequestHeader;
import org.xerial.snappy.Snappy;

/**
 * One record batch, exactly as wanted, sent by a Produce request: for what Kafka's producer cannot be brought to write, but other
 * producers can (a record without a time, a header key that is not UTF-8, snappy without framing, a given batch boundary).
 */
final class Raw {
    /** The last version that names topics instead of giving their ids. */
    private static final short PRODUCE = 12;
    private static final int ATTRIBUTES = DefaultRecordBatch.CRC_OFFSET + 4;
    private static final int LENGTH = 8;

    private final ByteBuffer batch;

    private Raw(ByteBuffer batch) {
        this.batch = batch;
    }

    /** A batch of these records with their own times. */
    static Raw of(Compression compression, SimpleRecord... records) {
        return new Raw(MemoryRecords.withRecords(compression, records).buffer());
    }

    /** The batch with bytes replaced by as many others wherever they occur; only of use where it is not compressed. */
    Raw replacing(byte[] from, byte[] to) {
        byte[] bytes = bytes();
        for (int at = DefaultRecordBatch.RECORD_BATCH_OVERHEAD; at + from.length <= bytes.length; at++) {
            if (ByteBuffer.wrap(bytes, at, from.length).equals(ByteBuffer.wrap(from))) {
                System.arraycopy(to, 0, bytes, at, from.length);
            }
        }
        return sealed(bytes);
    }

    /** The uncompressed batch compressed as librdkafka does it: one snappy block, without the framing of snappy-java. */
    Raw rawSnappy() throws IOException {
        byte[] bytes = bytes();
        int head = DefaultRecordBatch.RECORD_BATCH_OVERHEAD;
        byte[] records = new byte[bytes.length - head];
        System.arraycopy(bytes, head, records, 0, records.length);
        byte[] packed = Snappy.compress(records);
        ByteBuffer made = ByteBuffer.allocate(head + packed.length);
        made.put(bytes, 0, head).put(packed);
        made.putInt(LENGTH, made.capacity() - LENGTH - 4);
        made.putShort(ATTRIBUTES, (short) CompressionType.SNAPPY.id);
        return sealed(made.array());
    }

    private byte[] bytes() {
        byte[] bytes = new byte[batch.remaining()];
        batch.duplicate().get(bytes);
        return bytes;
    }

    private static Raw sealed(byte[] bytes) {
        CRC32C crc = new CRC32C();
        crc.update(bytes, ATTRIBUTES, bytes.length - ATTRIBUTES);
        ByteBuffer batch = ByteBuffer.wrap(bytes);
        batch.putInt(DefaultRecordBatch.CRC_OFFSET, (int) crc.getValue());
        return new Raw(batch);
    }

    /** Appends the batch to a partition. */
    void send(Admin admin, String topic, int partition) throws Exception {
        Node leader = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(partition).leader();
        TopicProduceDataCollection topics = new TopicProduceDataCollection();
        PartitionProduceData data = new PartitionProduceData().setIndex(partition).setRecords(MemoryRecords.readableRecords(batch.duplicate()));
        topics.add(new TopicProduceData().setName(topic).setPartitionData(List.of(data)));
        ProduceRequest request = ProduceRequest.builder(new ProduceRequestData().setAcks((short) -1).setTimeoutMs(30_000).setTopicData(topics)).build(PRODUCE);
        RequestHeader header = new RequestHeader(ApiKeys.PRODUCE, PRODUCE, "lab-raw", 1);
        ByteBuffer bytes = request.serializeWithHeader(header);
        try (Socket socket = new Socket(leader.host(), leader.port())) {
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            out.writeInt(bytes.remaining());
            out.write(bytes.array(), bytes.arrayOffset() + bytes.position(), bytes.remaining());
            out.flush();
            DataInputStream in = new DataInputStream(socket.getInputStream());
            ByteBuffer answer = ByteBuffer.wrap(in.readNBytes(in.readInt()));
            ProduceResponse response = (ProduceResponse) AbstractResponse.parseResponse(answer, header);
            response.data().responses().forEach(each -> each.partitionResponses().forEach(it -> {
                if (it.errorCode() != 0) {
                    throw new IllegalStateException("batch for " + topic + "-" + partition + " was refused: " + Errors.forCode(it.errorCode()) + " " + it.errorMessage());
                }
            }));
        }
    }
}
