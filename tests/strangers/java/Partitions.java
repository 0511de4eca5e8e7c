import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

/**
 * Prints which partitions Apache Kafka's own client chooses for 1,000 keys: always the same keys.
 *
 * <p>Run it with {@code scripts/strangers vectors}.
 */
public final class Partitions {
    private static final int[] COUNTS = {1, 2, 3, 5, 6, 7, 12, 16, 24, 32, 50, 64, 100, 128, 1000, 4096};

    private static final Random RANDOM = new Random(20261121);

    public static void main(String[] arguments) {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
        out.println("# What Apache Kafka's Java client makes of keys; written by `scripts/strangers vectors`, not by hand.");
        out.println("# The key in hexadecimal, its murmur2, and its partition of so many:");
        StringBuilder counts = new StringBuilder("# key\tmurmur2");
        for (int count : COUNTS) counts.append('\t').append(count);
        out.println(counts);
        for (byte[] key : keys()) {
            StringBuilder line = new StringBuilder(HexFormat.of().formatHex(key));
            line.append('\t').append(Utils.murmur2(key));
            for (int count : COUNTS) line.append('\t').append(BuiltInPartitioner.partitionForKey(key, count));
            out.println(line);
        }
        out.flush();
    }

    private static List<byte[]> keys() {
        List<byte[]> keys = new ArrayList<>();
        keys.add(new byte[0]);
        // Every value of a byte, as a key and at each place of an incomplete word.
        for (int b = 0; b < 256; b += 5) {
            for (int before = 0; before < 4; before++) {
                byte[] key = new byte[before + 1];
                key[before] = (byte) b;
                keys.add(key);
            }
        }
        for (int n = 0; n < 240; n++) keys.add(utf8("tenant-" + n));
        for (int n = 0; n < 190; n++) keys.add(utf8(text(1 + n % 40, 0x21, 0x7e)));
        for (int n = 0; n < 190; n++) keys.add(utf8(text(1 + n % 30, 0xa1, 0x2fff)));
        for (int n = 0; n < 60; n++) keys.add(utf8(text(1 + n % 10, 0x1f300, 0x1f6ff)));
        for (int n = 0; n < 20; n++) keys.add(utf8(text(200 + 31 * n, 0x21, 0x7e)));
        while (keys.size() < 1000) {
            byte[] key = new byte[1 + keys.size() % 70];
            RANDOM.nextBytes(key);
            keys.add(key);
        }
        return keys;
    }

    private static String text(int length, int from, int to) {
        int[] points = IntStream.generate(() -> from + RANDOM.nextInt(to - from + 1)).limit(length).toArray();
        return new String(points, 0, length);
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
