import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/**
 * What the operator of a cluster does, and librdkafka's safe bindings can't.
 *
 * <pre>
 * Operator BROKERS deny USER TOPIC         nobody of this name may write to the topic any more
 * Operator BROKERS allow USER TOPIC        and again
 * Operator BROKERS quota CLIENT BYTES      clients of this id may produce so many bytes a second
 * </pre>
 */
public final class Operator {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        String whom = arguments[2];
        try (Admin admin = Admin.create(properties)) {
            switch (arguments[1]) {
                case "deny" -> admin.createAcls(List.of(denial(whom, arguments[3]))).all().get();
                case "allow" -> admin.deleteAcls(List.of(denial(whom, arguments[3]).toFilter())).all().get();
                case "quota" -> admin.alterClientQuotas(List.of(quota(whom, arguments[3]))).all().get();
                default -> throw new IllegalArgumentException(arguments[1]);
            }
        }
    }

    private static AclBinding denial(String user, String topic) {
        return new AclBinding(
                new ResourcePattern(ResourceType.TOPIC, topic, PatternType.LITERAL),
                new AccessControlEntry("User:" + user, "*", AclOperation.WRITE, AclPermissionType.DENY));
    }

    private static ClientQuotaAlteration quota(String client, String bytes) {
        ClientQuotaEntity entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, client));
        ClientQuotaAlteration.Op rate = new ClientQuotaAlteration.Op("producer_byte_rate", Double.valueOf(bytes));
        return new ClientQuotaAlteration(entity, List.of(rate));
    }
}
